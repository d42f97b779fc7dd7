//! What the prober of one backend is to do. Values only. Pure.

use std::time::{Duration, Instant};

/// How a backend is to be probed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The kept-open connection with its pings is enough, and `/readyz` now and then. Without one: a fresh probe at
    /// each interval.
    Steady,
    /// `/readyz` at each interval, over the kept-open connection or, where that is silent, a fresh one: the backend is out of the
    /// path, or waits for its hold-down to end.
    Watchful,
    /// A fresh probe every 50 ms: a decision is near.
    Burst,
    /// A fresh probe every 10 ms: a decision is near, and the last one was refused or reset, which costs the backend's host a
    /// packet.
    Rush,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// How often.
    pub pace: Pace,
    /// After how long an answer is overdue: of TCP and TLS together, or of a ping.
    pub limit: Duration,
    /// A probe must have been started at or after this time; if none was, one is due now.
    pub not_before: Option<Instant>,
    /// That must be a fresh one.
    pub afresh: bool,
    /// A ping, or a probe, must have been started at or after this time.
    pub ping_not_before: Option<Instant>,
    /// Nothing is heard of the backend: what arrives from it on clients' connections is to be watched.
    pub watch: bool,
}
