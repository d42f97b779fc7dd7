//! The words of health: what a probe found, what state a backend is in, and the [`HealthView`] that goes to the
//! reconciler. The room `health` decides about them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::snapshot::Snapshot;
use super::types::Backend;
pub use cue::Cue;
pub use withheld::Withheld;

mod cue;
mod withheld;

/// Why a probe failed. A closed set: these are labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailReason {
    /// Nothing listens there (ECONNREFUSED).
    Refused,
    /// The connection was reset or closed before the answer was whole.
    Reset,
    /// TCP, TLS or a ping was not answered in time.
    Timeout,
    /// No route, or a router or neighbour said so (ENETUNREACH, EHOSTUNREACH and their like).
    Unreachable,
    /// TLS failed, but not over the certificate.
    Tls,
    /// The certificate does not chain to the cluster's CA, has expired, is not yet valid, or carries another name.
    BadCertificate,
    /// What came back is not HTTP.
    Protocol,
}

impl FailReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Unreachable,
        Self::Tls,
        Self::BadCertificate,
        Self::Protocol,
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
        }
    }
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A ping was answered: the process runs. Says nothing of its readiness, and does not end a suspicion.
    Alive,
    /// `/readyz` says 200, or 401 or 403, which say nothing of it ([`Answered::readiness_known`]).
    Ready,
    /// `/readyz` says something else (429, 5xx, any other status), or nothing in a patience of seconds while the process
    /// lives: not to be given new connections.
    Unready,
    /// No answer in HTTP.
    Failed(FailReason),
}

/// As whom an apiserver took the daemon. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// It knows the daemon's credentials: a connection stays open, and is asked over.
    Authenticated,
    /// No credentials were shown: there are none, or they could not be read.
    Anonymous,
    /// It answered 401 to the daemon's credentials, and was asked without.
    Refused,
}

impl Caller {
    /// The word in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Anonymous => "anonymous",
            Self::Refused => "refused",
        }
    }
}

/// What an answer to `/readyz` says besides of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// As whom the daemon was taken.
    pub caller: Caller,
    /// Whether readiness is known: 401 and 403 say nothing of it.
    pub readiness_known: bool,
}

/// One finished probe.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// When its first packet was due.
    pub started: Instant,
    /// When it was decided.
    pub finished: Instant,
    /// What it found.
    pub outcome: Outcome,
    /// One round trip to the backend, if one was measured: of the TCP handshake or of a ping.
    pub round_trip: Option<Duration>,
    /// How long TCP and TLS took, if they came about; `None` on a connection that was open before.
    pub handshake: Option<Duration>,
    /// Whether the backend runs on this node, if a connection was made: it begins at the address that it leads to then.
    pub local: Option<bool>,
    /// Who was taken for whom, if `/readyz` was answered.
    pub answered: Option<Answered>,
}

/// The state of a backend. Leaving the path is cheap and reversible, and follows from weak evidence; established
/// connections are ended in one state only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not probed yet: gets new connections while no other is [`State::Healthy`], or if it is programmed already and nothing
    /// speaks against it.
    Unknown,
    /// Answers in time and is ready: gets new connections.
    Healthy,
    /// Answers late: gets new connections unless at least half of the published ones, rounded up, answer in time.
    Late,
    /// Alive, but unready or removed from the endpoints: keeps its connections and gets no new ones while another one is there.
    Draining,
    /// Refuses, or is silent, while another backend answers: gets no new connections and keeps the established ones.
    Suspect,
    /// Gone beyond doubt: its established connections are ended.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Healthy, Self::Late, Self::Draining, Self::Suspect, Self::Failed];

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Late => "late",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        }
    }

    /// Whether no new connection can be expected to succeed there.
    pub fn is_out(self) -> bool {
        matches!(self, Self::Suspect | Self::Failed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What the operator configured.
#[derive(Clone, Copy, Debug)]
pub struct HealthOptions {
    /// Unanswered probes before a silent backend is [`State::Suspect`], or unready ones before it drains. At least 1.
    pub fall: u32,
    /// Answered probes in a row before a backend is [`State::Healthy`] again. At least 1.
    pub rise: u32,
    /// How long a backend that is no longer published is probed on.
    pub removal_grace: Duration,
    /// After how long of draining the remaining flows are ended; `None`: never.
    pub drain_timeout: Option<Duration>,
    /// After how long of silence established connections may be ended.
    pub silence_timeout: Duration,
    /// Each node waits a random part of it more, before it ends flows or has them ask.
    pub kill_spread: Duration,
}

/// The health of one backend, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// Its state.
    pub state: State,
    /// When it entered the state.
    pub since: Instant,
    /// When the first sign of the latest change of state was noticed.
    pub noticed: Instant,
    /// Which sign that was.
    pub cue: Cue,
    /// Whether the control plane publishes it.
    pub published: bool,
    /// Whether its latest probe was answered. A backend that is Suspect and answers waits for its hold-down to end.
    pub answering: bool,
    /// Its established flows are to be ended: it is Failed, or has drained for as long as the operator wants.
    pub ending: bool,
    /// When its established flows were last to be asked whether they still stand.
    pub ask: Option<Instant>,
    /// Since when nothing was heard of it, while questions are unanswered.
    pub silent_since: Option<Instant>,
    /// Why its established flows are not ended, where it has been silent for longer than the timeout.
    pub withheld: Option<Withheld>,
    /// Why its latest probe failed, while it does.
    pub failing: Option<FailReason>,
    /// Smoothed round trip.
    pub round_trip: Option<Duration>,
    /// Until when it must go on answering before it is Up again, if it does answer and failed repeatedly.
    pub held_until: Option<Instant>,
    /// Its latest answer to `/readyz`.
    pub answered: Option<Answered>,
}

/// A snapshot together with the health of its backends, so that the two are never mixed.
#[derive(Clone, Debug)]
pub struct HealthView {
    /// What the control plane publishes.
    pub snapshot: Arc<Snapshot>,
    /// When the news that this view holds became known: the snapshot's last byte, or the sign of a change of state.
    pub noticed: Instant,
    /// Every backend that is probed: the published ones, and those removed a short while ago.
    pub backends: BTreeMap<Backend, BackendHealth>,
}

impl HealthView {
    /// A view in which nothing was probed.
    pub fn unprobed(snapshot: Arc<Snapshot>, now: Instant) -> Self {
        Self { snapshot, noticed: now, backends: BTreeMap::new() }
    }

    /// The state of a backend; [`State::Unknown`] if it is not probed.
    pub fn state(&self, backend: Backend) -> State {
        self.backends.get(&backend).map_or(State::Unknown, |health| health.state)
    }
}

/// The health of a backend in this state, as tests of what follows from it need it.
#[cfg(test)]
pub(crate) fn sample(state: State) -> BackendHealth {
    let now = Instant::now();
    BackendHealth {
        state,
        since: now,
        noticed: now,
        cue: Cue::Probe,
        published: true,
        answering: !state.is_out(),
        ending: state == State::Failed,
        ask: None,
        silent_since: None,
        withheld: None,
        failing: state.is_out().then_some(FailReason::Timeout),
        round_trip: Some(Duration::from_millis(1)),
        held_until: None,
        answered: None,
    }
}
