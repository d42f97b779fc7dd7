//! The access that a Pod has: two environment variables and the files of its service account.

use std::path::Path;
use std::sync::Arc;

use x509_parser::time::ASN1Time;

use super::certificates::{check_ca, read_ca};
use super::kubeconfig::server_name;
use super::{Access, AccessError, Expiry, Origin, Server, TLS_NAME, Token, User, file};

/// Where the kubelet mounts the service account.
pub(crate) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Loads it. `variable` reads the environment, `folder` holds the files: arguments, so that tests need neither. `kept` is the token
/// that was read before.
pub(crate) fn load(
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
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let server = Server::of_pod(&host, &port).map_err(absent)?;
    let authority = server.authority().map_err(absent)?;

    let ca = folder.join("ca.crt");
    let place = format!("the service account's CA {}", ca.display());
    let pem = file::read(&ca).map_err(|cause| absent(format!("read {place}: {cause}")))?;
    let roots = read_ca(&pem, &place)?;
    let warnings = check_ca(&roots, &place, ASN1Time::now())?;

    let token = folder.join("token");
    let token = Token::open(&token, kept)
        .map_err(|cause| absent(format!("read the service account's token {}: {cause}", token.display())))?;

    let expiry = Expiry::of(&roots, None, Some(&token));
    Ok(Access {
        roots,
        user: User::default(),
        server,
        authority,
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
