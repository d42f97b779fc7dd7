//! Checks the CA bundle before it is needed.
//!
//! In: the bundle in PEM. Out: its certificates in DER, or what is wrong with them. A wrong clock must not keep a node
//! from starting, so nothing that it could mend is an error.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::{AccessError, Warning};
use crate::transport::words::{one_line, words};

/// Reads the certificates of a bundle. `place` says where it came from.
pub(crate) fn read_ca(pem: &[u8], place: &str) -> Result<Vec<Vec<u8>>, AccessError> {
    let problem =
        |problem: &str| AccessError::Certificates { place: place.to_owned(), problem: problem.to_owned() };
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem).map(|der| der.map(|der| der.to_vec())).collect();
    // One that is not finished may be left out without a word.
    let begun = String::from_utf8_lossy(pem).matches("-----BEGIN CERTIFICATE-----").count();
    let ended = String::from_utf8_lossy(pem).matches("-----END CERTIFICATE-----").count();
    match read {
        Ok(ders) if begun == ders.len() => Ok(ders),
        Err(_) if begun == ended => Err(problem("holds a certificate that is damaged; write the file again")),
        _ => Err(problem("is cut off, or being written: not every certificate in it is whole")),
    }
}

/// Checks each CA certificate (DER) against `now`. `place` says where they came from. Returns what an operator should
/// know of a bundle that can be used, a line for each.
pub(crate) fn check_ca(ders: &[Vec<u8>], place: &str, now: ASN1Time) -> Result<Vec<Warning>, AccessError> {
    let problem = |problem: String| AccessError::Certificates { place: place.to_owned(), problem };
    let mut store = rustls::RootCertStore::empty();
    let mut expired = Vec::new();
    let mut warnings = Vec::new();
    for (at, der) in ders.iter().enumerate() {
        let broken = |why: &str| {
            problem(format!(
                "holds a certificate that does not parse, number {} of {}{why}",
                at + 1,
                ders.len()
            ))
        };
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| broken("; write the file again"))?;
        store
            .add(CertificateDer::from(der.as_slice()))
            .map_err(|error| broken(&format!(": {}", words(&error))))?;
        let subject = one_line(&certificate.subject().to_string());
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        if end < now {
            expired.push((end, subject));
        } else if begin > now {
            warnings.push(Warning::Date(format!(
                "{place}: {subject} is not valid before {begin}; is this node's clock right?"
            )));
        }
    }
    if ders.is_empty() {
        return Err(problem("holds no certificate in PEM form; it must be the cluster's CA".to_owned()));
    }
    if expired.len() == ders.len()
        && let Some((end, subject)) = expired.iter().max_by_key(|(end, _)| end.timestamp())
    {
        // A wrong clock says the same of a good CA, and what is known of the apiservers can be served meanwhile.
        warnings.push(Warning::Date(format!(
            "{place}: every certificate in it has expired, the last was {subject}, on {end}: renew it, or correct this \
             node's clock; no apiserver can be verified until then"
        )));
        return Ok(warnings);
    }
    for (end, subject) in expired {
        let text = format!("{place}: {subject} expired at {end}; others in the bundle have not");
        warnings.push(Warning::Date(text));
    }
    Ok(warnings)
}
