//! The access that a Pod has: two environment variables and the files of its service account.

use std::path::Path;
use std::sync::Arc;

use kube::Config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::time::ASN1Time;

use super::certificates::check_ca;
use super::kubeconfig::server_name;
use super::{Access, AccessError, Expiry, Origin, Server, TLS_NAME, Token, file};
use crate::apiserver::error::one_line;

/// Where the kubelet mounts the service account.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Loads it. `variable` reads the environment, `folder` holds the files: arguments, so that tests need neither. `kept` is the token
/// that was read before.
pub(super) fn load(
    variable: impl Fn(&str) -> Option<String>,
    folder: &Path,
    kept: Option<&Arc<Token>>,
) -> Result<Access, AccessError> {
    let absent = |problem: String| AccessError::NotInCluster { problem };
    let variable = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| absent(format!("the environment variable {name} is not set")))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let port = port.parse().map_err(|_| {
        absent(format!("the environment variable KUBERNETES_SERVICE_PORT is {port:?}, not a port"))
    })?;
    let server = Server { host, port };
    let url = format!("https://{server}").parse().map_err(|_| {
        absent(format!("KUBERNETES_SERVICE_HOST and _PORT give {server}, not a host and port"))
    })?;

    let ca = folder.join("ca.crt");
    let place = format!("the service account's CA {}", ca.display());
    let pem = file::read(&ca).map_err(|cause| absent(format!("read {place}: {cause}")))?;
    let ders = CertificateDer::pem_slice_iter(&pem)
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| AccessError::Certificates {
            place: place.clone(),
            problem: format!("is not in PEM form: {}", one_line(&error.to_string())),
        })?;
    let warnings = check_ca(&ders, &place, ASN1Time::now())?;

    let token = folder.join("token");
    let token = Token::open(&token, kept)
        .map_err(|cause| absent(format!("read the service account's token {}: {cause}", token.display())))?;

    let mut config = Config::new(url);
    config.root_cert = Some(ders);
    let expiry = Expiry::of(&config, Some(&token));
    Ok(Access {
        config,
        server,
        tls_name: TLS_NAME.to_owned(),
        server_name: server_name(TLS_NAME).map_err(absent)?,
        token: Some(token),
        source: format!("the Pod's service account in {}", folder.display()),
        ca: place,
        origin: Origin::Pod,
        expiry,
        warnings,
    })
}
