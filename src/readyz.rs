//! Errors of TCP, TLS and HTTP -> the closed set of reasons.
//!
//! In: errors as rustls, h2, hyper and the kernel nest them. Out: a [`FailReason`].

use std::error::Error;
use std::io;

use crate::model::health::FailReason;

/// Any error on the way of a probe.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// This node could not ask: no file descriptor, no free port, no memory. It is held against no backend.
#[derive(Debug, thiserror::Error)]
#[error("open a socket for a probe")]
pub(super) struct LocalError(#[source] pub(super) io::Error);

/// What an error says of the backend.
pub(super) fn reason(error: &(dyn Error + 'static)) -> FailReason {
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
    use crate::probe::socket::LocalOr;

    #[test]
    fn the_kernels_numbers() {
        for (number, expected) in [
            (111, FailReason::Refused),
            (104, FailReason::Reset),
            (32, FailReason::Reset),
            (110, FailReason::Timeout),
            (101, FailReason::Unreachable),
            (113, FailReason::Unreachable),
            (112, FailReason::Unreachable),
            (13, FailReason::Unreachable),
            (1, FailReason::Unreachable),
            (22, FailReason::Unreachable),
        ] {
            let error = LocalOr::Peer(io::Error::from_raw_os_error(number));
            assert_eq!(reason(&error), expected, "{error:?}");
        }
    }

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
