//! Why an attempt failed.
//!
//! Pure. In: I/O errors and wrong bytes. Out: one of a few reasons, with the sentence that explains it.

use std::io;

use serde::{Deserialize, Serialize};

/// The reasons that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The SYN was answered with a reset.
    Refused,
    /// The connection was reset, or closed by the peer before its time.
    Reset,
    /// Nothing (more) came in time.
    Timeout,
    /// No route, or ICMP says so.
    Unreachable,
    /// The peer said something else than expected.
    WrongAnswer,
    /// The handshake failed or the certificate was not accepted.
    Tls,
    /// Anything else, such as no free port or descriptor on this side.
    Other,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The error of a system call while doing `action`.
    pub(crate) fn io(action: &str, error: &io::Error) -> Self {
        Self::new(reason(error), format!("{action}: {error}"))
    }

    pub(crate) fn timeout(action: &str) -> Self {
        Self::new(Reason::Timeout, format!("{action}: no answer in time"))
    }
}

fn reason(error: &io::Error) -> Reason {
    use io::ErrorKind as Kind;
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return Reason::Tls;
    }
    match error.kind() {
        Kind::ConnectionRefused => Reason::Refused,
        Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted | Kind::UnexpectedEof => {
            Reason::Reset
        }
        // The kernel's own timeout comes after its last SYN or retransmission.
        Kind::TimedOut => Reason::Timeout,
        Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::NetworkDown => Reason::Unreachable,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_reasons() {
        let of = |number: i32| reason(&io::Error::from_raw_os_error(number));
        assert_eq!(of(111), Reason::Refused);
        assert_eq!(of(104), Reason::Reset);
        assert_eq!(of(110), Reason::Timeout);
        assert_eq!(of(101), Reason::Unreachable);
        assert_eq!(of(113), Reason::Unreachable);
        assert_eq!(of(99), Reason::Other);
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(reason(&tls), Reason::Tls);
    }
}
