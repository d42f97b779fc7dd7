//! What comes back on a connection, and what it means.

use std::error::Error;
use std::io::{self, ErrorKind as Kind};

/// Why a virtual IP did not answer. A closed set: these are labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Nothing listens there (ECONNREFUSED).
    Refused,
    /// The connection ended before the answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// No route, or somebody said so.
    Unreachable,
    /// TLS failed, but not over the certificate.
    Tls,
    /// The certificate is none of an apiserver of this cluster.
    BadCertificate,
    /// What came back is not HTTP, or an answer that no apiserver gives.
    Protocol,
    /// An apiserver answered that it is not ready.
    Unready,
    /// This node could not ask: no descriptor, no free port.
    Local,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Unreachable,
        Self::Tls,
        Self::BadCertificate,
        Self::Protocol,
        Self::Unready,
        Self::Local,
    ];

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::BadCertificate => "bad-certificate",
            Self::Protocol => "protocol",
            Self::Unready => "unready",
            Self::Local => "local",
        }
    }

    /// What an error of a socket, or of TLS on it, says.
    pub(super) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls) = inner.and_then(<dyn Error>::downcast_ref::<rustls::Error>) {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Self::BadCertificate
                }
                _ => Self::Tls,
            };
        }
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::UnexpectedEof => Self::Reset,
            Kind::TimedOut => Self::Timeout,
            Kind::InvalidData => Self::Protocol,
            Kind::AddrNotAvailable | Kind::AddrInUse | Kind::OutOfMemory => Self::Local,
            _ => Self::Unreachable,
        }
    }
}

/// The longest status line that is looked at.
pub(super) const STATUS_LINE: usize = 256;

/// What the beginning of an answer says; `None` while there is too little of it.
pub(super) fn judge(head: &[u8]) -> Option<Result<(), Failure>> {
    const VERSION: &[u8] = b"HTTP/1.";
    let seen = head.len().min(VERSION.len());
    if head[..seen] != VERSION[..seen] {
        return Some(Err(Failure::Protocol));
    }
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return (head.len() >= STATUS_LINE).then_some(Err(Failure::Protocol));
    };
    let status =
        head[..end].split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok());
    Some(match status.and_then(|word| word.trim_end().parse::<u16>().ok()) {
        // An apiserver without anonymous access says 401 or 403.
        Some(200 | 401 | 403) => Ok(()),
        Some(500..=599) => Err(Failure::Unready),
        _ => Err(Failure::Protocol),
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
            ("HTTP/1.1 404 Not Found\r\n", Some(Err(Failure::Protocol))),
            ("HTTP/1.1 \r\n", Some(Err(Failure::Protocol))),
            ("HTTP/1.1 2000 OK\r\n", Some(Err(Failure::Protocol))),
            ("SSH-2.0-OpenSSH", Some(Err(Failure::Protocol))),
            ("HTTP/1.1 20", None),
            ("HT", None),
            ("", None),
        ] {
            assert_eq!(judge(head.as_bytes()), expected, "{head:?}");
        }
        let endless = format!("HTTP/1.1 {}", "2".repeat(STATUS_LINE));
        assert_eq!(judge(endless.as_bytes()), Some(Err(Failure::Protocol)));
    }

    #[test]
    fn the_certificate_is_told_from_the_rest_of_tls() {
        let of = |error: rustls::Error| Failure::of(&io::Error::new(Kind::InvalidData, error));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert_eq!(of(expired), Failure::BadCertificate);
        assert_eq!(of(rustls::Error::DecryptError), Failure::Tls);
        assert_eq!(Failure::of(&io::Error::from_raw_os_error(111)), Failure::Refused);
        assert_eq!(Failure::of(&io::Error::from_raw_os_error(113)), Failure::Unreachable);
        assert_eq!(Failure::of(&Kind::UnexpectedEof.into()), Failure::Reset);
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::BTreeSet<&str> = Failure::ALL.map(Failure::label).into();
        assert_eq!(labels.len(), Failure::ALL.len());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head: Vec<u8>) {
            let _ = judge(&head);
        }
    }
}
