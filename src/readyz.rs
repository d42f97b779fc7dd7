//! What asking an apiserver for `/readyz` means, whoever asks: how it is addressed and believed, what its status says, and
//! which of the closed set of reasons stands behind an error of TCP, TLS or HTTP.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::model::health::{FailReason, Outcome};

/// The name as HTTP writes it, in `Host` and in a URI.
pub fn authority(name: &ServerName<'_>) -> String {
    match name {
        ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => format!("[{}]", name.to_str()),
        other => other.to_str().into_owned(),
    }
}

/// The settings that a question needs on top of whom to trust. A resumed session would not show the certificate again,
/// and the question is there to see it.
pub fn settings(trust: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = trust.clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// What an HTTP status says. 401 and 403 come from an apiserver without anonymous access: it is alive, and ready as far as
/// anyone without a name may know.
pub fn outcome(status: u16) -> Outcome {
    match status {
        200 | 401 | 403 => Outcome::Ready,
        500..=599 => Outcome::Unready,
        _ => Outcome::Failed(FailReason::Protocol),
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
