//! The status document: what `apivip status` prints as JSON, and the words for parts of it. Pure.
//!
//! Field names are part of the interface of `/status`.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::health::TerminationBlocker;
use crate::model::sources::EndpointSource;
use crate::model::types::{Backend, Vip};
use crate::model::verdict::{Severity, Verdict};
use crate::transport::Expiry;

/// A credential plugin answers within so many seconds, most of them within one.
const SLOW_PLUGIN: u64 = 3;

/// The state of one daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version and commit.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The state of the whole, by the severest of the problems.
    pub verdict: Verdict,
    /// The Service, as NAMESPACE/NAME.
    pub service: String,
    /// `starting`, `waiting`, `programmed`, `forwarding` or `failed`.
    pub phase: String,
    /// One sentence about the phase.
    pub summary: String,
    /// Number of the latest snapshot.
    pub generation: u64,
    /// The dataplane that new connections use.
    pub dataplane: DataplaneStatus,
    /// What other programs changed and the daemon made again.
    pub repairs: RepairsStatus,
    /// What the daemon's own connections to the virtual IPs found.
    pub selftests: Vec<SelfTestStatus>,
    /// The latest changes of apiservers' states, newest first.
    pub transitions: Vec<TransitionStatus>,
    /// The connection to the API.
    pub api: ApiStatus,
    /// What is redirected.
    pub frontends: Vec<FrontendStatus>,
    /// Why something is kept that the API no longer publishes.
    pub retained: Vec<String>,
    /// Addresses that the API publishes and that were left out, with the reason.
    pub rejected: Vec<String>,
    /// What an operator should look after, the most severe first; nothing, if all is well.
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, and since when.
    pub message: String,
    /// What to do about it.
    pub action: String,
}

impl Problem {
    pub(super) fn new(severity: Severity, message: String, action: &str) -> Self {
        Self { severity, message, action: action.to_owned() }
    }
}

/// The connection to the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiStatus {
    /// `connecting`, `synced` or `degraded`.
    pub state: String,
    /// Seconds since 1970 when it entered that state.
    pub since_timestamp: u64,
    /// The apiserver that is watched.
    pub address: Option<String>,
    /// The `resourceVersion` up to which the endpoints have been read.
    pub resource_version: Option<String>,
    /// Seconds since an apiserver last said something of the Service or its endpoints.
    pub last_event_seconds_ago: Option<u64>,
    /// Why it is not synced.
    pub last_error: Option<String>,
    /// The command of the credential plugin that has not answered yet.
    pub pending_plugin: Option<String>,
    /// Seconds since it was started.
    pub pending_plugin_seconds: Option<u64>,
    /// When the CA and the credentials expire.
    pub expiry: Expiry,
}

impl ApiStatus {
    /// What it waits for, once that takes longer than a plugin should.
    pub(super) fn waiting(&self) -> Option<String> {
        let seconds = self.pending_plugin_seconds.filter(|seconds| *seconds >= SLOW_PLUGIN)?;
        let command = self.pending_plugin.as_deref()?;
        Some(format!("the credential plugin {command} has not answered for {}", duration(seconds)))
    }
}

/// One virtual IP and port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// Address and port.
    pub vip: Vip,
    /// The name of the Service's port.
    pub port_name: String,
    /// Whether a client address stays with one backend.
    pub client_affinity: bool,
    /// Whether a local route may take the virtual IP over.
    pub local_route_allowed: bool,
    /// Its apiservers: those in use, those that could be, and those that were.
    pub backends: Vec<BackendStatus>,
}

/// One apiserver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: Backend,
    /// `healthy`, `late`, `draining`, `suspect`, `failed`, or `unknown` if it has not been probed.
    pub state: String,
    /// Seconds since it entered that state.
    pub since_seconds: Option<u64>,
    /// Why its latest probe failed, while it does.
    pub failure: Option<String>,
    /// Why its established connections are not reset, where it has been silent for longer than `--silence-timeout`.
    pub reset_withheld: Option<TerminationBlocker>,
    /// Seconds for which it must go on answering before it is healthy again, after it failed repeatedly.
    pub hold_down_seconds: Option<u64>,
    /// How it authenticated the daemon at its latest answer to `/readyz`: `authenticated`, `anonymous` where there are no credentials to
    /// send, or `refused` where it answers 401.
    pub authentication: Option<String>,
    /// Whether that answer said if it is ready; 401 and 403 do not, and it is taken for ready.
    pub readiness_known: Option<bool>,
    /// Where it was learnt: `published`, `seed` or `saved`.
    pub source: Option<EndpointSource>,
    /// Seconds since that source first named it.
    pub source_age_seconds: Option<u64>,
    /// Whether the API publishes it.
    pub published: bool,
    /// Whether it shares new connections.
    pub used: bool,
    /// Of new connections to this virtual IP it gets so much, from 0 to 1.
    pub share: f64,
    /// Smoothed round trip of probes, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Connections that rules sent there, by all frontends together.
    pub connections: u64,
    /// Connections that the forwarder carried there, through virtual IPs and `--listen`.
    pub forwarded_connections: u64,
    /// Those of them that are open now.
    pub forwarded_open: u64,
    /// Connections through rules to this virtual IP and there that are open now; `None` if conntrack does not say.
    pub open: Option<u64>,
    /// Bytes that clients have sent over them; `None` if the kernel does not count.
    pub bytes_up: Option<u64>,
    /// Bytes that came back.
    pub bytes_down: Option<u64>,
}

impl BackendStatus {
    /// Connections that went there, through rules and through the forwarder.
    pub fn all_connections(&self) -> u64 {
        self.connections.saturating_add(self.forwarded_connections)
    }
}

/// The dataplane that new connections use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// `nftables`, `forwarder`, or `none` before the first of them.
    pub in_use: String,
    /// Whether the table belongs to the daemon, so that no other program can change it.
    pub table_owned: bool,
    /// Seconds since then.
    pub since_seconds: u64,
    /// Why it is this one.
    pub reason: Option<String>,
    /// The proxy serves because nftables cannot be used, and not because the operator chose it.
    pub fallback_active: bool,
    /// Connections that the forwarder carries, through virtual IPs and `--listen`.
    pub forwarder_connections: u64,
    /// It takes no more connections: there are as many as may be, or no descriptor is left.
    pub accept_paused: bool,
    /// Some of them began while the forwarder was in use, and go on though rules serve new ones.
    pub draining: bool,
}

/// Repairs since the daemon started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RepairsStatus {
    /// How many there were.
    pub total: u64,
    /// The latest ones, newest first.
    pub latest: Vec<RepairStatus>,
}

/// One repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepairStatus {
    /// `table` or `routes`.
    pub object: String,
    /// Seconds since 1970 when the change was noticed.
    pub timestamp: u64,
    /// Seconds since then.
    pub seconds_ago: u64,
    /// `event`, `lost_events` or `check`.
    pub found: String,
    /// Foreign transactions that it repaired, as far as the kernel reported them.
    pub changes: u64,
    /// Who made them, as name and pid, as far as the kernel said.
    pub by: Option<String>,
}

/// The latest test of one virtual IP and port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelfTestStatus {
    /// Address and port.
    pub vip: Vip,
    /// Whether it counts as answering: it was answered, and did not fail twice in a row since.
    pub ready: bool,
    /// Why the latest test failed; null if it was answered.
    pub failure: Option<String>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// How long the answer took, in microseconds.
    pub latency_us: Option<u64>,
    /// Seconds since the latest test.
    pub seconds_ago: u64,
    /// Seconds since the latest answer.
    pub answered_seconds_ago: Option<u64>,
    /// The component that answered the connection: `rules`, `forwarder`, `other_program_dnat`, `local_listener`, `before_netfilter`, `network`
    /// or `unknown`; `other_program_reject` if one was rejected on its way to the forwarder; null if none came about.
    pub answered_by: Option<String>,
    /// The same as a sentence.
    pub explanation: Option<String>,
    /// The backend of the connection, where conntrack shows it.
    pub backend: Option<SocketAddr>,
    /// Whether connections of Pods and other hosts get further than this node: `passing`, `blocked`, or `unknown` where too few
    /// came.
    pub pod_traffic: String,
    /// So many came and none went on, if they are blocked.
    pub pod_connections_blocked: Option<u64>,
}

impl SelfTestStatus {
    /// Whether apivip took the connection, as far as one came about.
    pub fn is_ours(&self) -> bool {
        matches!(self.answered_by.as_deref(), Some("rules" | "forwarder") | None)
    }

    /// The result as a part of a sentence.
    pub fn result(&self) -> String {
        let backend = self.backend.map(|backend| format!(", {backend}")).unwrap_or_default();
        let by = self.answered_by.as_ref().map(|by| format!(" ({by}{backend})")).unwrap_or_default();
        let times = if self.consecutive_failures > 1 {
            format!(" {} times in a row", self.consecutive_failures)
        } else {
            String::new()
        };
        match (&self.failure, self.latency_us) {
            (Some(reason), _) => format!("failed{times}: {reason}{by}"),
            (None, took) => format!("answered in {}{by}", milliseconds(took.unwrap_or(0))),
        }
    }
}

/// One change of an apiserver's state, and what followed from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionStatus {
    /// Seconds since 1970 when it was decided.
    pub timestamp: u64,
    /// Seconds since then.
    pub seconds_ago: u64,
    /// Whose.
    pub backend: Backend,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why its latest probe failed, if it did.
    pub reason: Option<String>,
    /// The first sign of it.
    pub trigger: String,
    /// From the first sign to the decision, in milliseconds.
    pub decision_ms: u64,
    /// From the decision to the commit, in milliseconds.
    pub commit_ms: u64,
    /// From the order to end its connections to the end of the last one, in milliseconds.
    pub flows_ms: Option<u64>,
    /// How many connections it had then.
    pub flows: Option<u64>,
    /// How many of them could not be ended.
    pub remaining: Option<u64>,
}

impl TransitionStatus {
    /// What is known of it besides who and when.
    pub fn details(&self) -> String {
        let mut text = self.reason.as_ref().map(|reason| format!("{reason}, ")).unwrap_or_default();
        text += &format!("decided in {} ms, programmed in {} ms", self.decision_ms, self.commit_ms);
        if let (Some(flows @ 1..), Some(remaining), Some(ms)) = (self.flows, self.remaining, self.flows_ms) {
            let ended = flows.saturating_sub(remaining);
            text += &format!(", {ended} of {flows} connections ended in {ms} ms");
        }
        text
    }
}

impl Display for TransitionStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { backend, from, to, .. } = self;
        let ago = duration(self.seconds_ago);
        write!(f, "{backend} {from} -> {to} {ago} ago: {}", self.details())
    }
}

/// What becomes of a credential by that name in so many seconds, or became of it.
pub(super) fn expiry(credential: &str, left: i64) -> String {
    let credential = if credential == "ca" { "CA".to_owned() } else { credential.replace('_', " ") };
    let time = duration(left.unsigned_abs());
    if left < 0 {
        format!("{credential} expired {time} ago")
    } else {
        format!("{credential} expires in {time}")
    }
}

/// Two units are enough to read.
pub(crate) fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}

/// Three digits say enough.
pub(crate) fn milliseconds(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02}ms", micros / 1000, micros % 1000 / 10),
        10_000..100_000 => format!("{}.{}ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}ms", micros / 1000),
    }
}
