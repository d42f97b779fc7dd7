//! What asking an apiserver for `/readyz` means, whoever asks: how it is addressed and believed, what its status says, and
//! which of the closed set of reasons stands behind an error of TCP, TLS or HTTP.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use http::HeaderValue;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, SignatureScheme};

use crate::model::health::{FailReason, ProbeOutcome};

/// The name as HTTP writes it, in `Host` and in a URI.
pub fn authority(name: &ServerName<'_>) -> String {
    match name {
        ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => format!("[{}]", name.to_str()),
        other => other.to_str().into_owned(),
    }
}

/// As whom apiservers are asked, and by which CA they are verified.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Trusts the cluster's CA, and shows no certificate.
    pub trust: Arc<ClientConfig>,
    /// The daemon's own, if it has any that can be read.
    pub credentials: Option<Credentials>,
}

impl Identity {
    /// One without credentials.
    pub fn anonymous(trust: Arc<ClientConfig>) -> Self {
        Self { trust, credentials: None }
    }
}

/// What an apiserver knows the daemon by. It is shown only over TLS, and only after the server's certificate was verified.
/// `Debug` shows no secret.
#[derive(Clone)]
pub struct Credentials {
    /// The client certificate with its key. It goes with the connection.
    pub certificate: Option<Arc<dyn ResolvesClientCert>>,
    /// The Authorization header (RFC 9110, section 11.6.2). It goes with each request.
    pub authorization: Option<HeaderValue>,
}

impl Credentials {
    /// None if there is neither.
    pub fn new(
        certificate: Option<Arc<dyn ResolvesClientCert>>,
        authorization: Option<HeaderValue>,
    ) -> Option<Self> {
        let certificate = certificate.filter(|certificate| certificate.has_certs());
        let any = certificate.is_some() || authorization.is_some();
        any.then_some(Self { certificate, authorization })
    }

    /// The chain of the certificate, the client's own first; empty without one.
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        // Clients have one key; what the server offers does not change which.
        let shown = self.certificate.as_ref().and_then(|c| c.resolve(&[], &[SignatureScheme::ED25519]));
        shown.map(|key| key.cert.clone()).unwrap_or_default()
    }

    /// Whether a connection that was made with the other ones shows the same certificate.
    pub fn connects_like(&self, other: &Self) -> bool {
        self.chain() == other.chain()
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization && self.connects_like(other)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate.is_some())
            .field("authorization", &self.authorization.is_some())
            .finish()
    }
}

/// The settings that a question needs on top of whom to trust, with the certificate to show, if there is one. A resumed
/// session would not show the server's certificate again, and the question is there to see it.
pub fn settings(
    trust: &ClientConfig,
    credentials: Option<&Credentials>,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut config = trust.clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    if let Some(certificate) = credentials.and_then(|credentials| credentials.certificate.clone()) {
        config.client_auth_cert_resolver = certificate;
    }
    Arc::new(config)
}

/// The apiserver does not know these credentials, or wants some and was shown none.
pub const UNAUTHORIZED: u16 = 401;

/// Whether an HTTP status tells if the apiserver is ready: 401 and 403 say only that it is not the caller's to know.
pub fn tells_readiness(status: u16) -> bool {
    !matches!(status, 401 | 403)
}

/// What an HTTP status says. Whoever answers in HTTP, over TLS with a certificate that was verified, is alive: under load, where
/// priority and fairness is off, kube-apiserver says 429. 401 and 403 come from an apiserver that does not let the caller see it: it is alive, and taken
/// for ready, since nothing else is known ([`tells_readiness`]).
pub fn outcome(status: u16) -> ProbeOutcome {
    match status {
        200 | 401 | 403 => ProbeOutcome::Ready,
        _ => ProbeOutcome::Unready,
    }
}

/// What an error says of the backend.
pub fn reason(error: &(dyn Error + 'static)) -> FailReason {
    let chain = chain(error);
    // The innermost cause that is known counts.
    chain.iter().rev().find_map(|error| known(*error)).unwrap_or(FailReason::Protocol)
}

fn known(error: &(dyn Error + 'static)) -> Option<FailReason> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(of_tls(tls));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return Some(of_io(io.kind()));
    }
    if let Some(http) = error.downcast_ref::<h2::Error>() {
        let ended = http.is_go_away() && http.is_remote();
        return Some(if ended { FailReason::Reset } else { FailReason::Protocol });
    }
    let http = error.downcast_ref::<hyper::Error>()?;
    let ended = http.is_closed() || http.is_canceled() || http.is_incomplete_message();
    Some(if ended { FailReason::Reset } else { FailReason::Protocol })
}

fn of_tls(error: &rustls::Error) -> FailReason {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            FailReason::BadCertificate
        }
        _ => FailReason::Tls,
    }
}

fn of_io(kind: io::ErrorKind) -> FailReason {
    use io::ErrorKind as Kind;
    match kind {
        Kind::ConnectionRefused => FailReason::Refused,
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof => FailReason::Reset,
        Kind::TimedOut => FailReason::Timeout,
        Kind::InvalidData => FailReason::Protocol,
        // Routes of the kinds unreachable, prohibit and blackhole say ENETUNREACH, EHOSTUNREACH, EACCES and EINVAL;
        // an output policy says EPERM.
        _ => FailReason::Unreachable,
    }
}

/// The error and its causes. `io::Error` hides the error that it wraps: its `source` is already one further. h2 hides
/// the `io::Error`.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut last = error;
    // A chain is a handful of errors deep; the bound is for one that contains itself.
    while chain.len() < 16 {
        let wrapped = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let hidden = last.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let next: &'a (dyn Error + 'static) = match (wrapped, hidden, last.source()) {
            (Some(wrapped), _, _) => wrapped,
            (None, Some(hidden), _) => hidden,
            (None, None, Some(source)) => source,
            (None, None, None) => break,
        };
        chain.push(next);
        last = next;
    }
    chain
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn the_innermost_cause_counts() {
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, expired);
        assert_eq!(reason(&wrapped), FailReason::BadCertificate);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        assert_eq!(reason(&io::Error::new(io::ErrorKind::InvalidData, alert)), FailReason::Tls);
        let words = io::Error::new(io::ErrorKind::InvalidData, "garbage");
        assert_eq!(reason(&words), FailReason::Protocol);
        assert_eq!(reason(&io::Error::from(io::ErrorKind::UnexpectedEof)), FailReason::Reset);
    }
}
