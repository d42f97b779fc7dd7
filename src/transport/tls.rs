//! Which servers are trusted to be an apiserver: what the cluster's CA signed, and, as in Go, a certificate that is itself
//! among those that are trusted, be it a self-signed one or one of a server whose issuer is not known.
//!
//! In: the CA's certificates, and what a server shows. Out: TLS settings; what cannot be verified here, and why.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::certificates::signature_problem;
use super::text::variant_text;

/// Settings that trust `roots`, and show this certificate if there is one.
pub(crate) fn client_config(
    roots: &[Vec<u8>],
    shown: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, String> {
    let provider = provider();
    let verifier = verifier(roots, Arc::clone(&provider))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("prepare TLS: {}", variant_text(&error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match shown {
        Some(shown) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
        None => config.with_no_client_auth(),
    })
}

/// That of the process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let provider = CryptoProvider::get_default().cloned();
    provider.unwrap_or_else(|| Arc::new(ring::default_provider()))
}

/// Verifies servers by `roots`.
pub(crate) fn verifier(roots: &[Vec<u8>], provider: Arc<CryptoProvider>) -> Result<ServerVerifier, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(CertificateDer::from(root.as_slice()))
            .map_err(|error| format!("a CA certificate cannot be used: {}", variant_text(&error)))?;
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| format!("no API server can be verified: {error}"))?;
    Ok(ServerVerifier { webpki, roots: roots.to_vec() })
}

/// Why a certificate that may be good for others cannot be verified here; one line.
#[derive(Debug)]
pub(crate) struct Unverifiable(pub(crate) String);

impl fmt::Display for Unverifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unverifiable {}

impl Unverifiable {
    /// The reason in a verifier's error, if it is one of these.
    pub(crate) fn of(error: &CertificateError) -> Option<&Self> {
        match error {
            CertificateError::Other(OtherError(inner)) => inner.downcast_ref(),
            _ => None,
        }
    }
}

/// Verifies the certificate of each server: by the CA, or, as in Go, because it is itself among the trusted ones.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Vec<Vec<u8>>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = if self.roots.iter().any(|root| root.as_slice() == end_entity.as_ref()) {
            verify_pinned(end_entity, server_name, now)
        } else {
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        verified.map_err(|error| match self.problem(end_entity, intermediates) {
            Some(problem) if is_about_algorithms(&error) => Error::InvalidCertificate(
                CertificateError::Other(OtherError(Arc::new(Unverifiable(problem)))),
            ),
            _ if is_about_algorithms(&error) && is_self_signed(end_entity) => {
                CertificateError::UnknownIssuer.into()
            }
            _ => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl ServerVerifier {
    /// What in the chain cannot be verified, whoever signed it.
    fn problem(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<String> {
        let parse = |der: &'_ [u8]| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed.version());
        if parse(leaf).is_some_and(|version| version != X509Version::V3) {
            return Some(
                "it is of X.509 version 1, which cannot contain the name of the server: issue it again with a \
                 subjectAltName (openssl x509 -req -extfile)"
                    .to_owned(),
            );
        }
        let issuers: Vec<X509Certificate<'_>> = self
            .roots
            .iter()
            .map(Vec::as_slice)
            .chain(intermediates.iter().map(AsRef::as_ref))
            .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
            .collect();
        let chain = std::iter::once(leaf).chain(intermediates);
        chain.filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).find_map(|certificate| {
            let of_its_name = |issuer: &&X509Certificate<'_>| issuer.subject() == certificate.issuer();
            let problems: Vec<Option<String>> = issuers
                .iter()
                .filter(of_its_name)
                .map(|issuer| signature_problem(&certificate, issuer.public_key()))
                .collect();
            // One issuer that could be verified is enough.
            if problems.iter().any(Option::is_none) { None } else { problems.into_iter().next().flatten() }
        })
    }
}

/// Whether an error can come from an algorithm or a version that is not known here. What is out of date, or of another
/// name, says so.
fn is_about_algorithms(error: &Error) -> bool {
    use CertificateError as Bad;
    let Error::InvalidCertificate(error) = error else { return false };
    !matches!(
        error,
        Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. }
            | Bad::NotValidForName
            | Bad::NotValidForNameContext { .. }
            | Bad::InvalidPurpose
            | Bad::InvalidPurposeContext { .. }
    )
}

/// Whether a certificate names itself as its issuer, so that no CA can verify it.
fn is_self_signed(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}

/// Verifies a certificate that is trusted as it is: its dates, its name and its purpose. That the server has its key, the
/// handshake shows.
fn verify_pinned(
    der: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let seconds =
        |time: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.max(0).cast_unsigned()));
    let validity = certificate.validity();
    let (not_before, not_after) =
        (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    let purposes = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(der)?, name)?;
    Ok(ServerCertVerified::assertion())
}

/// Chooses rustls's cryptography, once per process: which one is the default would be ambiguous if another crate's
/// features ever named a second.
pub(crate) fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if another thread installed one meanwhile, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
