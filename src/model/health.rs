//! The types of health: the result of a probe, the state of a backend, and the [`HealthView`] that goes to the
//! reconciler. The room `health` decides about them. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use super::types::Backend;

/// Why a probe failed. A closed set: these are labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// Nothing listens there (ECONNREFUSED).
    Refused,
    /// The connection was reset or closed before the answer was whole.
    Reset,
    /// TCP, TLS or a ping was not answered in time.
    Timeout,
    /// No route, or a router said so (ENETUNREACH, EHOSTUNREACH and their like).
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
            Self::BadCertificate => "bad_certificate",
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
pub enum ProbeOutcome {
    /// A ping was answered: the process runs. Says nothing of its readiness, and does not end a suspicion.
    Alive,
    /// `/readyz` says 200, or 401 or 403, which say nothing of it ([`ReadyzAnswer::readiness_known`]).
    Ready,
    /// `/readyz` says something else (429, 5xx, any other status), or nothing in a patience of seconds while the process
    /// lives: not to be given new connections.
    Unready,
    /// No answer in HTTP.
    Failed(FailReason),
}

/// How an API server authenticated the daemon. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthResult {
    /// It accepts the daemon's credentials: a connection stays open and is used for `/readyz`.
    Authenticated,
    /// No credentials were shown: there are none, or they could not be read.
    Anonymous,
    /// It answered 401 to the daemon's credentials, and was probed without.
    Refused,
}

impl AuthResult {
    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Anonymous => "anonymous",
            Self::Refused => "refused",
        }
    }
}

/// What a response to `/readyz` says besides readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyzAnswer {
    /// How the daemon was authenticated.
    pub auth: AuthResult,
    /// Whether readiness is known: 401 and 403 do not tell.
    pub readiness_known: bool,
}

/// One finished probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbeResult {
    /// When its first packet was due.
    pub started: Instant,
    /// When it was decided.
    pub finished: Instant,
    /// What it found.
    pub outcome: ProbeOutcome,
    /// One round trip to the backend, if one was measured: of the TCP handshake or of a ping.
    pub round_trip: Option<Duration>,
    /// How long TCP and TLS took, if they was established; `None` on a connection that was open before.
    pub handshake: Option<Duration>,
    /// Whether the backend runs on this node, if a connection was established: its source address is then its
    /// destination address.
    pub local: Option<bool>,
    /// How the daemon was authenticated, if `/readyz` was answered.
    pub readyz: Option<ReadyzAnswer>,
}

/// The state of a backend. Leaving the path is cheap and reversible, and follows from weak evidence; established
/// connections are terminated in one state only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Not probed yet: gets new connections while no other is [`HealthState::Healthy`], or if it is programmed
    /// already and no probe failed.
    Unknown,
    /// Answers in time and is ready: gets new connections.
    Healthy,
    /// Answers late: gets new connections unless at least half of the published ones, rounded up, answer in time.
    Late,
    /// Alive, but unready or removed from the endpoints: keeps its connections and gets no new ones while another one is there.
    Draining,
    /// Refuses connections or does not respond while another backend answers: gets no new connections and keeps the
    /// established ones.
    Suspect,
    /// Proven dead: its established connections are terminated.
    Failed,
}

impl HealthState {
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

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What the operator configured.
#[derive(Clone, Copy, Debug)]
pub struct HealthOptions {
    /// Unanswered probes before a silent backend is [`HealthState::Suspect`], or unready ones before it drains. At least 1.
    pub fall: u32,
    /// Answered probes in a row before a backend is [`HealthState::Healthy`] again. At least 1.
    pub rise: u32,
    /// How long a backend that is no longer published is probed on.
    pub removal_grace: Duration,
    /// After how long of draining the remaining flows are terminated; `None`: never.
    pub drain_timeout: Option<Duration>,
    /// After how long of silence established connections may be terminated.
    pub silence_timeout: Duration,
    /// Each node waits an additional random part of it before it terminates or challenges flows.
    pub reset_jitter: Duration,
}

/// The health of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// Its state.
    pub state: HealthState,
    /// When it entered the state.
    pub since: Instant,
    /// When the first sign of the latest change of state was noticed.
    pub noticed: Instant,
    /// What that sign was.
    pub trigger: Trigger,
    /// Whether the control plane publishes it.
    pub published: bool,
    /// Whether its latest probe was answered. A backend that is Suspect and answers waits for its hold-down to end.
    pub answering: bool,
    /// Its established flows are to be terminated: it is Failed, or its drain timeout has passed.
    pub end_flows: bool,
    /// When its established flows were last to be challenged (a SYN that a live peer answers with a challenge ACK,
    /// and others with a reset).
    pub challenge_at: Option<Instant>,
    /// Since when nothing was received from it, while requests are unanswered.
    pub silent_since: Option<Instant>,
    /// Why its established flows are not terminated, where it has been silent for longer than the timeout.
    pub termination_blocked: Option<TerminationBlocker>,
    /// Why its latest probe failed, while it does.
    pub failure: Option<FailReason>,
    /// Smoothed round trip.
    pub round_trip: Option<Duration>,
    /// The end of its hold-down: until when it must answer before it is Healthy again, after repeated failures.
    pub hold_down_until: Option<Instant>,
    /// Its latest answer to `/readyz`.
    pub readyz: Option<ReadyzAnswer>,
}

impl BackendHealth {
    /// The smoothed round trip while it answers: that of one that does not is of the past.
    pub fn current_round_trip(&self) -> Option<Duration> {
        self.round_trip.filter(|_| !self.state.is_out() && self.failure.is_none())
    }
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

    /// The state of a backend; [`HealthState::Unknown`] if it is not probed.
    pub fn state(&self, backend: Backend) -> HealthState {
        self.backends.get(&backend).map_or(HealthState::Unknown, |health| health.state)
    }
}

/// The health of a backend in this state, as tests of what follows from it need it.
#[cfg(test)]
pub(crate) fn sample(state: HealthState) -> BackendHealth {
    let now = Instant::now();
    BackendHealth {
        state,
        since: now,
        noticed: now,
        trigger: Trigger::ProbeFailed,
        published: true,
        answering: !state.is_out(),
        end_flows: state == HealthState::Failed,
        challenge_at: None,
        silent_since: None,
        termination_blocked: None,
        failure: state.is_out().then_some(FailReason::Timeout),
        round_trip: Some(Duration::from_millis(1)),
        hold_down_until: None,
        readyz: None,
    }
}

/// The first sign of a state change. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its kept-open connection ended.
    ConnectionClosed,
    /// A ping, or a `/readyz` request over HTTP/1.1, was not answered in time.
    PingTimeout,
    /// The host did not acknowledge the kernel's keepalive in time.
    KeepaliveTimeout,
    /// The forwarder could not connect to it, or a client's connection through it was reset.
    ConnectFailed,
    /// A probe failed.
    ProbeFailed,
    /// `/readyz` was answered otherwise than before.
    ReadyzChanged,
    /// The control plane published other endpoints.
    EndpointsChanged,
}

impl Trigger {
    /// The label in logs and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectionClosed => "connection_ended",
            Self::PingTimeout => "no_pong",
            Self::KeepaliveTimeout => "no_keepalive",
            Self::ConnectFailed => "dial_failed",
            Self::ProbeFailed => "probe_failed",
            Self::ReadyzChanged => "readyz",
            Self::EndpointsChanged => "published",
        }
    }
}

/// Why established connections to a silent backend are not terminated: what is missing, or contradicts it. A closed
/// set, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminationBlocker {
    /// No other backend of the family, on another node, has answered throughout.
    NoWitness,
    /// Data of its process still arrive on clients' connections.
    DataArriving,
    /// Its host answers on clients' connections, but not this node's own SYNs.
    OwnDialsBlocked,
    /// Packets on clients' connections could not be observed all the time, or the connections could not be challenged.
    NotObserved,
}

impl fmt::Display for TerminationBlocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWitness => "no other API server on another node has answered throughout",
            Self::DataArriving => "clients' connections still receive data from it",
            Self::OwnDialsBlocked => {
                "its host answers on clients' connections, so only the probes of this node are blocked: check the firewall of this node"
            }
            Self::NotObserved => "this node could not observe clients' connections throughout",
        })
    }
}
