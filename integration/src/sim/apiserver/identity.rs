//! Who asks, judged as an apiserver with anonymous requests does it.
//!
//! In: a client certificate, a bearer token. Out: an [`Identity`]. TLS takes every certificate; a wrong one counts only where
//! nothing else is shown.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, header};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::Notify;

use super::activity::Activity;

use super::state::State;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Known,
    Anonymous,
    /// A token or certificate that nobody issued: refused everywhere, even where anonymous requests are welcome.
    Wrong,
}

/// What a client has shown in the TLS handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificate {
    None,
    Good,
    Wrong,
}

/// What is known of the connection that a request came over.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) certificate: Certificate,
    pub(super) activity: Arc<Activity>,
    /// Told when a stranger asked over it, which ends it over HTTP/2: against CVE-2023-44487.
    pub(super) stranger: Arc<Notify>,
}

/// Judges the certificates of a handshake.
pub(super) fn certificate(
    verifier: Option<&dyn ClientCertVerifier>,
    shown: Option<&[CertificateDer<'_>]>,
) -> Certificate {
    let Some((own, intermediates)) = shown.and_then(<[_]>::split_first) else { return Certificate::None };
    let good = verifier
        .is_some_and(|verifier| verifier.verify_client_cert(own, intermediates, UnixTime::now()).is_ok());
    if good { Certificate::Good } else { Certificate::Wrong }
}

/// Judges a request.
pub(super) fn identify(state: &State, connection: &Connection, headers: &HeaderMap) -> Identity {
    let Some(tokens) = &state.tokens else { return Identity::Known };
    if connection.certificate == Certificate::Good {
        return Identity::Known;
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given.map(|value| value.strip_prefix("Bearer ").unwrap_or_default()) {
        Some(token) if tokens.iter().any(|known| known == token) => Identity::Known,
        None if connection.certificate == Certificate::None => Identity::Anonymous,
        _ => Identity::Wrong,
    }
}
