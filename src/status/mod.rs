//! What `apivip status` shows: one document, as JSON, and as [`text`] for people.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::VERSION;
use crate::kube::{Connection, Expiry};
use crate::model::desired::FailOpenReason;
use crate::model::report::{Report, TrafficPath};
use crate::model::snapshot::Affinity;
use crate::model::sources::Origins;
use crate::model::traffic::Traffic;
use crate::model::types::{Backend, ServiceKey, Vip};
use crate::process::clock::unix_seconds;
use crate::proxy::Stats;
use crate::selftest::SelfTestResults;

mod backend;
mod path;
mod problems;
mod repair;
mod selftest;
pub mod text;
mod transition;

pub use backend::BackendStatus;
pub use path::PathStatus;
pub use problems::Problem;
pub use repair::{RepairStatus, RepairsStatus};
pub use selftest::SelfTestStatus;
pub(crate) use text::milliseconds;
pub use transition::TransitionStatus;

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
    /// The Service, as NAMESPACE/NAME.
    pub service: String,
    /// `starting`, `waiting`, `programmed`, `forwarding` or `failed`.
    pub phase: String,
    /// One sentence about the phase.
    pub summary: String,
    /// Number of the snapshot that was looked at last.
    pub generation: u64,
    /// Which way new connections take.
    pub dataplane: PathStatus,
    /// What others changed and the daemon made again.
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
    pub holds: Vec<String>,
    /// Addresses that the API publishes and that were left out, with the reason.
    pub rejected: Vec<String>,
    /// What an operator should look after; nothing, if all is well.
    pub problems: Vec<Problem>,
}

/// The connection to the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiStatus {
    /// `connecting`, `synced` or `degraded`.
    pub state: String,
    /// Seconds since 1970 when it entered that state.
    pub since: u64,
    /// The apiserver that is watched.
    pub address: Option<String>,
    /// The `resourceVersion` up to which the endpoints have been read.
    pub resource_version: Option<String>,
    /// Seconds since an apiserver last said something of the Service or its endpoints.
    pub heard_seconds_ago: Option<u64>,
    /// Why it is not synced.
    pub last_error: Option<String>,
    /// The command of the credential plugin that has not answered yet.
    #[serde(default)]
    pub plugin: Option<String>,
    /// Seconds since it was started.
    #[serde(default)]
    pub plugin_seconds: Option<u64>,
    /// When the CA and the credentials expire.
    pub expiry: Expiry,
}

impl ApiStatus {
    /// What it waits for, once that takes longer than a plugin should.
    fn waiting(&self) -> Option<String> {
        let seconds = self.plugin_seconds.filter(|seconds| *seconds >= SLOW_PLUGIN)?;
        let command = self.plugin.as_deref()?;
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
    pub guard: bool,
    /// Who serves it, who could, and who did.
    pub backends: Vec<BackendStatus>,
}

/// What the parts of the daemon know.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The Service.
    pub service: &'a ServiceKey,
    /// When the daemon started.
    pub started: Instant,
    /// The reconciler's state.
    pub report: &'a Report,
    /// The API client's state.
    pub connection: &'a Connection,
    /// Where each apiserver was learnt.
    pub origins: &'a Origins,
    /// Connections sent to each apiserver.
    pub totals: &'a BTreeMap<Backend, u64>,
    /// What is open, if that was asked.
    pub traffic: Option<&'a Traffic>,
    /// What the forwarder counts.
    pub forwarder: &'a Stats,
    /// What the self-test found.
    pub selftests: &'a SelfTestResults,
}

impl Status {
    /// Puts the document together from what the parts of the daemon know.
    pub fn new(parts: &Parts<'_>) -> Self {
        let Parts { service, started, report, connection, origins, totals, traffic, forwarder, selftests } =
            *parts;
        let frontends = report.programmed.iter().flat_map(|state| &state.frontends).map(|f| FrontendStatus {
            vip: f.vip,
            port_name: f.port_name.clone(),
            client_affinity: f.affinity == Affinity::ClientIP,
            guard: f.guard,
            backends: backend::of(f, report, origins, totals, traffic),
        });
        let snapshot = report.view.as_ref().map(|view| &view.snapshot);
        let mut status = Self {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: started.elapsed().as_secs(),
            service: service.to_string(),
            phase: word(&report.phase),
            summary: summary(report),
            generation: snapshot.map_or(0, |s| s.generation),
            dataplane: PathStatus::new(report, forwarder),
            repairs: RepairsStatus::new(&report.repairs),
            selftests: SelfTestStatus::all(selftests),
            transitions: report.transitions.iter().map(TransitionStatus::new).collect(),
            api: ApiStatus {
                state: word(&connection.state),
                since: unix_seconds(connection.since),
                address: connection.address.map(|a| a.to_string()),
                resource_version: connection.resource_version.clone(),
                heard_seconds_ago: connection.heard.map(|heard| heard.elapsed().as_secs()),
                last_error: connection.last_error.clone(),
                plugin: connection.plugin.as_ref().map(|(command, _)| command.clone()),
                plugin_seconds: connection.plugin.as_ref().map(|(_, since)| since.elapsed().as_secs()),
                expiry: connection.expiry,
            },
            frontends: frontends.collect(),
            holds: report.fail_open.iter().map(ToString::to_string).collect(),
            rejected: snapshot.iter().flat_map(|s| &s.rejected).map(ToString::to_string).collect(),
            problems: Vec::new(),
        };
        status.problems = problems::of(&status);
        status
    }
}

/// The document of a daemon that has just been started.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    Status::new(&Parts {
        service: &ServiceKey::default(),
        started: Instant::now(),
        report: &Report::default(),
        connection: &Connection::default(),
        origins: &Origins::default(),
        totals: &BTreeMap::new(),
        traffic: None,
        forwarder: &Stats::default(),
        selftests: &SelfTestResults::default(),
    })
}

/// The phase and one sentence about it.
pub fn sentence(report: &Report) -> String {
    format!("{}: {}", word(&report.phase), summary(report))
}

/// The name that serde gives a unit variant.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn summary(report: &Report) -> String {
    use crate::model::report::Phase;
    match report.phase {
        Phase::Starting => {
            "the API has not been read yet; rules of an earlier run, if any, still stand".to_owned()
        }
        Phase::Waiting => {
            "the API publishes nothing that can be programmed; the node was left as it was".to_owned()
        }
        Phase::Programmed if report.view.as_ref().is_some_and(|view| !view.snapshot.is_published()) => {
            "the kernel has what seeds and saved state say; the API has not been read yet".to_owned()
        }
        Phase::Programmed if report.fail_open.iter().any(FailOpenReason::keeps) => {
            "the kernel keeps the last good rules where the API publishes none".to_owned()
        }
        Phase::Programmed => "the kernel has what the API publishes and the probes say".to_owned(),
        Phase::Unrouted => format!(
            "{}, but a route or routing rule that goes with them could not be made: {}",
            match report.path.as_ref().map(|path| path.in_use) {
                Some(TrafficPath::Forwarder) => "the daemon forwards connections itself",
                _ => "the kernel has the rules",
            },
            report.last_error.as_deref().unwrap_or("no reason given")
        ),
        Phase::Forwarding => "the daemon forwards connections itself".to_owned(),
        Phase::Failed => format!(
            "the kernel refused the rules, what stood before still stands: {}",
            report.last_error.as_deref().unwrap_or("no reason given")
        ),
    }
}

/// What becomes of a credential by that name in so many seconds, or became of it.
fn expiry(credential: &str, left: i64) -> String {
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
