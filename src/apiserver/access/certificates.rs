//! Checks the CA bundle and the client's certificate before they are needed.
//!
//! In: certificates as kube read them. Out: nothing, or what is wrong with them. A wrong clock must not keep a node
//! from starting, so nothing that it could mend is an error.

use kube::Config;
use kube::client::{ConfigExt, RustlsTlsError};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::AccessError;
use crate::apiserver::error::one_line;

/// Checks each CA certificate (DER) against `now`. `place` says where they came from. Returns what an operator should
/// know of a bundle that can be used, a line for each.
pub(super) fn check_ca(ders: &[Vec<u8>], place: &str, now: ASN1Time) -> Result<Vec<String>, AccessError> {
    let problem = |problem: String| AccessError::Certificates { place: place.to_owned(), problem };
    let mut store = rustls::RootCertStore::empty();
    let mut expired = Vec::new();
    let mut warnings = Vec::new();
    for der in ders {
        let broken = |cause: String| problem(format!("holds a certificate that does not parse: {cause}"));
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| broken(one_line(&error.to_string())))?;
        store
            .add(CertificateDer::from(der.as_slice()))
            .map_err(|error| broken(one_line(&error.to_string())))?;
        let subject = one_line(&certificate.subject().to_string());
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        if end < now {
            expired.push((end, subject));
        } else if begin > now {
            warnings
                .push(format!("{place}: {subject} is not valid before {begin}; is this node's clock right?"));
        }
    }
    if ders.is_empty() {
        return Err(problem("holds no certificate in PEM form; it must be the cluster's CA".to_owned()));
    }
    if expired.len() == ders.len()
        && let Some((end, subject)) = expired.iter().max_by_key(|(end, _)| end.timestamp())
    {
        // A wrong clock says the same of a good CA, and what is known of the apiservers can be served meanwhile.
        warnings.push(format!(
            "{place}: every certificate in it has expired, the last was {subject}, on {end}: renew it, or correct this \
             node's clock; no apiserver can be verified until then"
        ));
        return Ok(warnings);
    }
    for (end, subject) in expired {
        warnings.push(format!("{place}: {subject} expired at {end}; others in the bundle have not"));
    }
    Ok(warnings)
}

/// Checks that certificate and key of the client parse and belong together. Runs no credential plugin.
pub(super) fn check_identity(config: &Config) -> Result<(), String> {
    let mut config = config.clone();
    config.auth_info.exec = None;
    let error = match config.rustls_client_config() {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(match &error {
        kube::Error::RustlsTls(RustlsTlsError::MissingCertificate) => {
            "the client certificate holds no certificate in PEM form".to_owned()
        }
        kube::Error::RustlsTls(RustlsTlsError::MissingPrivateKey) => {
            "the client key holds no private key in PEM form".to_owned()
        }
        kube::Error::RustlsTls(RustlsTlsError::InvalidPrivateKey(rustls::Error::InconsistentKeys(_))) => {
            "the client key does not match the client certificate; take both from the same renewal".to_owned()
        }
        kube::Error::RustlsTls(other) => {
            format!("the client certificate or key cannot be used: {}", one_line(&other.to_string()))
        }
        other => one_line(&other.to_string()),
    })
}
