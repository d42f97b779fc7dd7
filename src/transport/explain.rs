//! Why a connection or a handshake failed, in words that say what to do.
//!
//! In: errors as hyper, rustls and the kernel nest them. Out: one line.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::words::{one_line, words};
use crate::transport::access::{USABLE, Unverifiable};

/// What the server's certificate is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The name that it must carry.
    pub(crate) name: String,
    /// Where the CA comes from.
    pub(crate) ca: String,
}

/// Explains `error`, whose innermost known cause counts.
pub(crate) fn explain(error: &(dyn Error + 'static), expected: &Expected) -> String {
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

/// The error and its causes. `io::Error` hides the error that it wraps: its `source` is already one further.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut last = error;
    // A chain is a handful of errors deep; the bound is for one that contains itself.
    while chain.len() < 16 {
        let wrapped = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let next: &'a (dyn Error + 'static) = match (wrapped, last.source()) {
            (Some(wrapped), _) => wrapped,
            (None, Some(source)) => source,
            (None, None) => break,
        };
        chain.push(next);
        last = next;
    }
    chain
}

fn explain_tls(error: &rustls::Error, expected: &Expected) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => explain_certificate(error, expected),
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => format!(
            "the server refuses our client certificate ({}): it may have expired or be of another CA",
            words(alert)
        ),
        // The server does not say which of them.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => format!(
            "the server ended the handshake: it has no cipher, or no kind of key, that is used here; its key must be \
             {USABLE}"
        ),
        rustls::Error::AlertReceived(alert) => {
            format!("the server ended the handshake with the alert: {}", words(alert))
        }
        rustls::Error::PeerIncompatible(why) => format!("the server's TLS cannot be used: {}", words(why)),
        rustls::Error::PeerMisbehaved(why) => format!("the server breaks the rules of TLS: {}", words(why)),
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS".to_owned(),
        rustls::Error::General(why) => format!("TLS: {why}"),
        other => format!("TLS: {}", words(other)),
    }
}

fn explain_certificate(error: &CertificateError, Expected { name, ca }: &Expected) -> String {
    use CertificateError as Bad;
    if let Some(Unverifiable(why)) = Unverifiable::of(error) {
        return format!("its certificate cannot be verified: {why}");
    }
    match error {
        Bad::UnknownIssuer | Bad::BadSignature => format!(
            "its certificate is not signed by the cluster CA ({ca}): this is another cluster's server, or the CA was \
             replaced"
        ),
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "its certificate has expired: renew it there, or correct this node's clock".to_owned()
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "its certificate is not valid yet: this node's clock or the server's is wrong".to_owned()
        }
        Bad::NotValidForName => format!("its certificate does not carry the name {name}"),
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            format!("its certificate does not carry the name {name}; it has no subjectAltName")
        }
        Bad::NotValidForNameContext { presented, .. } => {
            let presented: Vec<String> = presented.iter().map(|name| plain_name(name)).collect();
            format!("its certificate does not carry the name {name}; it carries {}", presented.join(", "))
        }
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "its certificate is not for servers: its extendedKeyUsage lacks serverAuth; make it anew with that".to_owned()
        }
        other => format!("its certificate is refused: {}; make it anew", words(other)),
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
        io::ErrorKind::TimedOut => "the connection is dead: the server stopped answering".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection in the middle".to_owned(),
        _ => error.to_string(),
    }
}
