//! What made a backend suspect, or spoke for it, first.

use std::fmt;

/// The first sign of a change of state. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cue {
    /// Its kept-open connection ended.
    Ended,
    /// A PING, or the question for `/readyz` over HTTP/1.1, was not answered in time.
    Silent,
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
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ended, Self::Silent, Self::Dial, Self::Probe, Self::Readyz, Self::Published];

    /// The word in logs and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ended => "connection-ended",
            Self::Silent => "no-pong",
            Self::Dial => "dial-failed",
            Self::Probe => "probe-failed",
            Self::Readyz => "readyz",
            Self::Published => "published",
        }
    }
}

impl fmt::Display for Cue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
