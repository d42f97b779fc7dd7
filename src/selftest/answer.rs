//! What comes back on a connection, and what it means.

use std::io::{self, ErrorKind as Kind};

use crate::model::health::{FailReason, Outcome};
use crate::transport::failure::reason;
use crate::transport::readyz::outcome;

/// Why a virtual IP did not answer. A closed set: these are labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No answer that an apiserver would give.
    Failed(FailReason),
    /// An apiserver answered that it is not ready.
    Unready,
    /// This node could not ask: no descriptor, no free port.
    Local,
}

impl Failure {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        FailReason::ALL.into_iter().map(Self::Failed).chain([Self::Unready, Self::Local])
    }

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Failed(reason) => reason.label(),
            Self::Unready => "unready",
            Self::Local => "local",
        }
    }

    /// What an error of a socket, or of TLS on it, says.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            Kind::AddrNotAvailable | Kind::AddrInUse | Kind::OutOfMemory => Self::Local,
            _ => Self::Failed(reason(error)),
        }
    }
}

/// What came back is not HTTP, or an answer that no apiserver gives.
const PROTOCOL: Failure = Failure::Failed(FailReason::Protocol);

/// The longest status line that is looked at.
pub(super) const STATUS_LINE: usize = 256;

/// What the beginning of an answer says; `None` while there is too little of it.
pub(super) fn judge(head: &[u8]) -> Option<Result<(), Failure>> {
    const VERSION: &[u8] = b"HTTP/1.";
    let seen = head.len().min(VERSION.len());
    if head[..seen] != VERSION[..seen] {
        return Some(Err(PROTOCOL));
    }
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return (head.len() >= STATUS_LINE).then_some(Err(PROTOCOL));
    };
    let status =
        head[..end].split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok());
    // Three digits, the first of them from 1 to 5 (RFC 9110, section 15).
    let status = status.and_then(|word| word.trim_end().parse::<u16>().ok());
    let Some(status) = status.filter(|status| (100..600).contains(status)) else {
        return Some(Err(PROTOCOL));
    };
    Some(match outcome(status) {
        Outcome::Ready | Outcome::Alive => Ok(()),
        Outcome::Unready => Err(Failure::Unready),
        Outcome::Failed(reason) => Err(Failure::Failed(reason)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_an_answer_or_a_reason() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(Ok(()))),
            ("HTTP/1.1 401 Unauthorized\r\nA: b\r\n", Some(Ok(()))),
            ("HTTP/1.0 403\r\n", Some(Ok(()))),
            ("HTTP/1.1 500 Internal Server Error\r\n", Some(Err(Failure::Unready))),
            ("HTTP/1.1 404 Not Found\r\n", Some(Err(Failure::Unready))),
            ("HTTP/1.1 \r\n", Some(Err(PROTOCOL))),
            ("HTTP/1.1 2000 OK\r\n", Some(Err(PROTOCOL))),
            ("SSH-2.0-OpenSSH", Some(Err(PROTOCOL))),
            ("HTTP/1.1 20", None),
            ("HT", None),
            ("", None),
        ] {
            assert_eq!(judge(head.as_bytes()), expected, "{head:?}");
        }
        let endless = format!("HTTP/1.1 {}", "2".repeat(STATUS_LINE));
        assert_eq!(judge(endless.as_bytes()), Some(Err(PROTOCOL)));
    }

    #[test]
    fn the_certificate_is_told_from_the_rest_of_tls() {
        let of = |error: rustls::Error| Failure::of(&io::Error::new(Kind::InvalidData, error));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert_eq!(of(expired), Failure::Failed(FailReason::BadCertificate));
        assert_eq!(of(rustls::Error::DecryptError), Failure::Failed(FailReason::Tls));
        assert_eq!(Failure::of(&io::Error::from_raw_os_error(111)), Failure::Failed(FailReason::Refused));
        assert_eq!(Failure::of(&io::Error::from_raw_os_error(113)), Failure::Failed(FailReason::Unreachable));
        assert_eq!(Failure::of(&Kind::UnexpectedEof.into()), Failure::Failed(FailReason::Reset));
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::BTreeSet<&str> = Failure::all().map(Failure::label).collect();
        assert_eq!(labels.len(), Failure::all().count());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head: Vec<u8>) {
            let _ = judge(&head);
        }
    }
}
