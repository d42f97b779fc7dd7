//! What `apivip status` shows: one document, as JSON and as text for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::apiserver::{Connection, Expiry};
use crate::config::VERSION;
use crate::forwarder::Stats;
use crate::model::desired::Hold;
use crate::model::merge::Origins;
use crate::model::snapshot::Affinity;
use crate::model::types::{Backend, ServiceKey, Vip};
use crate::report::Report;

mod backend;
mod path;
mod repair;

pub use backend::BackendStatus;
pub use path::PathStatus;
pub use repair::{RepairStatus, RepairsStatus};

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
    /// The connection to the API.
    pub api: ApiStatus,
    /// What is redirected.
    pub frontends: Vec<FrontendStatus>,
    /// Why something is kept that the API no longer publishes.
    pub holds: Vec<String>,
    /// Addresses that the API publishes and that were left out, with the reason.
    pub rejected: Vec<String>,
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
    /// `slices`, `endpoints` or `unknown`.
    pub api: String,
    /// Why it is not synced.
    pub last_error: Option<String>,
    /// When the CA and the credentials expire.
    pub expiry: Expiry,
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

impl Status {
    /// Puts the document together from what the parts of the daemon know.
    pub fn new(
        service: &ServiceKey,
        started: SystemTime,
        report: &Report,
        connection: &Connection,
        origins: &Origins,
        totals: &BTreeMap<Backend, u64>,
        forwarder: &Stats,
    ) -> Self {
        let frontends = report.programmed.iter().flat_map(|state| &state.frontends).map(|f| FrontendStatus {
            vip: f.vip,
            port_name: f.port_name.clone(),
            client_affinity: f.affinity == Affinity::ClientIP,
            guard: f.guard,
            backends: backend::of(f, report, origins, totals),
        });
        let snapshot = report.view.as_ref().map(|view| &view.snapshot);
        Self {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: started.elapsed().map_or(0, |t| t.as_secs()),
            service: service.to_string(),
            phase: word(&report.phase),
            summary: summary(report),
            generation: snapshot.map_or(0, |s| s.generation),
            dataplane: PathStatus::new(report, forwarder),
            repairs: RepairsStatus::new(&report.repairs),
            api: ApiStatus {
                state: word(&connection.state),
                since: connection.since.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
                address: connection.address.map(|a| a.to_string()),
                api: word(&connection.api),
                last_error: connection.last_error.clone(),
                expiry: connection.expiry,
            },
            frontends: frontends.collect(),
            holds: report.holds.iter().map(ToString::to_string).collect(),
            rejected: snapshot.iter().flat_map(|s| &s.rejected).map(ToString::to_string).collect(),
        }
    }
}

/// The name that serde gives a unit variant.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn summary(report: &Report) -> String {
    use crate::report::Phase;
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
        Phase::Programmed if report.holds.iter().any(Hold::keeps) => {
            "the kernel keeps the last good rules where the API publishes none".to_owned()
        }
        Phase::Programmed => "the kernel has what the API publishes and the probes say".to_owned(),
        Phase::Forwarding => "the daemon forwards connections itself".to_owned(),
        Phase::Failed => format!(
            "the kernel refused the rules, what stood before still stands: {}",
            report.last_error.as_deref().unwrap_or("no reason given")
        ),
    }
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "apivip {}, pid {}, up {}", self.version, self.pid, duration(self.uptime_seconds))?;
        writeln!(f, "{:<10} {}: {}", "rules", self.phase, self.summary)?;
        write!(f, "{}{}", self.dataplane, self.repairs)?;
        let address = self.api.address.as_deref().map(|a| format!(" from {a}")).unwrap_or_default();
        let form = match self.api.api.as_str() {
            "slices" => ", EndpointSlices",
            "endpoints" => ", Endpoints",
            _ => "",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let since = duration(now.saturating_sub(self.api.since));
        writeln!(f, "{:<10} {}{address} for {since}{form}", "API", self.api.state)?;
        if let Some(error) = &self.api.last_error {
            writeln!(f, "{:<10} {error}", "")?;
        }
        for (credential, end) in self.api.expiry.dates() {
            let credential = credential.replace('_', " ");
            let left = end.saturating_sub(now.cast_signed());
            if left < 0 {
                let past = duration(left.unsigned_abs());
                writeln!(f, "{:<10} its {credential} expired {past} ago: renew it", "")?;
            }
        }
        for frontend in &self.frontends {
            write!(f, "{:<10} {}", "virtual IP", frontend.vip)?;
            if !frontend.port_name.is_empty() {
                write!(f, " ({})", frontend.port_name)?;
            }
            writeln!(
                f,
                " of {}{}",
                self.service,
                if frontend.client_affinity { ", by client address" } else { "" }
            )?;
            for backend in &frontend.backends {
                writeln!(f, "{:<10}   {backend}", "")?;
            }
        }
        for hold in &self.holds {
            writeln!(f, "{:<10} {hold}", "holding")?;
        }
        for rejection in &self.rejected {
            writeln!(f, "{:<10} {rejection}", "left out")?;
        }
        Ok(())
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
