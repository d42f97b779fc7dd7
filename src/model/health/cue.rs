//! What made a backend suspect, or spoke for it, first.

/// The first sign of a change of state. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// Its kept-open connection ended.
    Ended,
    /// A ping, or the question for `/readyz` over HTTP/1.1, was not answered in time.
    Silent,
    /// The host did not acknowledge the kernel's keepalive in time.
    Unacknowledged,
    /// The forwarder could not connect to it, or a client's connection through it was reset.
    Dial,
    /// A probe failed.
    Probe,
    /// `/readyz` was answered otherwise than before.
    Readyz,
    /// The control plane published other endpoints.
    Published,
}

impl Cue {
    /// The word in logs and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ended => "connection-ended",
            Self::Silent => "no-pong",
            Self::Unacknowledged => "no-keepalive",
            Self::Dial => "dial-failed",
            Self::Probe => "probe-failed",
            Self::Readyz => "readyz",
            Self::Published => "published",
        }
    }
}
