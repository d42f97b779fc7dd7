//! Why a connection, a handshake or a request failed.
//!
//! In: errors as hyper, h2, rustls and the kernel nest them. Out: one line for an operator ([`explain`]), or one of a
//! closed set of reasons for health checks and metrics ([`reason`]).

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::certificates::USABLE;
use super::text::{one_line, variant_text};
use super::tls::Unverifiable;
use crate::model::health::FailReason;

/// What the server's certificate is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedServer {
    /// The name that it must carry.
    pub(crate) name: String,
    /// Where the CA comes from.
    pub(crate) ca: String,
}

/// Explains `error`, whose innermost known cause counts.
pub(crate) fn explain(error: &(dyn Error + 'static), expected: &ExpectedServer) -> String {
    let chain = chain(error);
    if let Some(tls) = chain.iter().find_map(|error| error.downcast_ref::<rustls::Error>()) {
        return one_line(&explain_tls(tls, expected));
    }
    if let Some(io) = chain.iter().rev().find_map(|error| error.downcast_ref::<io::Error>()) {
        return one_line(&explain_io(io));
    }
    let mut texts: Vec<String> = Vec::new();
    for error in &chain {
        let text = error.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    one_line(&texts.join(": "))
}

fn explain_tls(error: &rustls::Error, expected: &ExpectedServer) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => explain_certificate(error, expected),
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => format!(
            "the server rejects the client certificate ({}): it may have expired, or another CA issued it",
            variant_text(alert)
        ),
        // The server does not say which of them.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => format!(
            "the server ended the handshake: it supports no cipher or key type of apivip; its key must be \
             {USABLE}"
        ),
        rustls::Error::AlertReceived(alert) => {
            format!("the server ended the handshake with the alert: {}", variant_text(alert))
        }
        rustls::Error::PeerIncompatible(why) => {
            format!("the TLS of the server is not supported: {}", variant_text(why))
        }
        rustls::Error::PeerMisbehaved(why) => {
            format!("the server violates the TLS protocol: {}", variant_text(why))
        }
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS".to_owned(),
        rustls::Error::General(why) => format!("TLS: {why}"),
        other => format!("TLS: {}", variant_text(other)),
    }
}

fn explain_certificate(error: &CertificateError, ExpectedServer { name, ca }: &ExpectedServer) -> String {
    use CertificateError as Bad;
    if let Some(Unverifiable(why)) = Unverifiable::of(error) {
        return format!("its certificate cannot be verified: {why}");
    }
    match error {
        Bad::UnknownIssuer | Bad::BadSignature => format!(
            "its certificate is not signed by the cluster CA ({ca}): the server belongs to another cluster, or the CA was \
             replaced"
        ),
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "its certificate has expired: renew it there, or correct the clock of this node".to_owned()
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "its certificate is not valid yet: the clock of this node or of the server is wrong".to_owned()
        }
        Bad::NotValidForName => format!("its certificate does not contain the name {name}"),
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            format!("its certificate does not contain the name {name}; it has no subjectAltName")
        }
        Bad::NotValidForNameContext { presented, .. } => {
            let presented: Vec<String> = presented.iter().map(|name| plain_name(name)).collect();
            format!("its certificate does not contain the name {name}; it contains {}", presented.join(", "))
        }
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "its certificate is not for servers: its extendedKeyUsage lacks serverAuth; issue it again with serverAuth".to_owned()
        }
        other => format!("its certificate is rejected: {}; issue it again", variant_text(other)),
    }
}

/// A name as webpki presents it, `DnsName("a")` or `IpAddress(192.0.2.1)`, without the rest.
fn plain_name(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(presented);
    inner.trim_matches('"').to_owned()
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied
    )
}

fn explain_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by the server".to_owned(),
        io::ErrorKind::TimedOut => "the connection timed out: the server stopped answering".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection early".to_owned(),
        _ => error.to_string(),
    }
}

/// Which of the closed set of reasons stands behind an error of TCP, TLS or HTTP.
pub fn reason(error: &(dyn Error + 'static)) -> FailReason {
    let chain = chain(error);
    // The innermost cause that is known counts.
    chain.iter().rev().find_map(|error| reason_of_cause(*error)).unwrap_or(FailReason::Protocol)
}

fn reason_of_cause(error: &(dyn Error + 'static)) -> Option<FailReason> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(reason_of_tls(tls));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return Some(reason_of_io(io.kind()));
    }
    if let Some(http) = error.downcast_ref::<h2::Error>() {
        let ended = http.is_go_away() && http.is_remote();
        return Some(if ended { FailReason::Reset } else { FailReason::Protocol });
    }
    let http = error.downcast_ref::<hyper::Error>()?;
    let ended = http.is_closed() || http.is_canceled() || http.is_incomplete_message();
    Some(if ended { FailReason::Reset } else { FailReason::Protocol })
}

fn reason_of_tls(error: &rustls::Error) -> FailReason {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            FailReason::BadCertificate
        }
        _ => FailReason::Tls,
    }
}

fn reason_of_io(kind: io::ErrorKind) -> FailReason {
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

/// The error and its causes. `io::Error` hides the error that it wraps: its `source` is already one further. h2 does not give
/// the `io::Error` of its connection as `source`.
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
    use super::*;

    #[test]
    fn innermost_known_cause_gives_the_reason() {
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
