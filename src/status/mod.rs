//! What `apivip status` shows: one document, as JSON (`document`) and as [`text`] for people.
//!
//! In: what the parts of the daemon know ([`Parts`]). Out: a [`Status`], with the `problems` and the [`Verdict`] that follow
//! from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::config::VERSION;
use crate::kube::Connection;
use crate::model::desired::{DesiredFrontend, FailOpenReason};
use crate::model::health::{BackendHealth, FailReason, HealthState};
use crate::model::report::{HealthTransition, Repair, Repairs, Report, TrafficPath};
use crate::model::snapshot::Affinity;
use crate::model::sources::Origins;
use crate::model::traffic::Traffic;
use crate::model::types::{Backend, Family, ServiceKey, Vip};
use crate::model::verdict::Verdict;
use crate::process::clock::{unix_now, unix_seconds};
use crate::proxy::{ForwardedConnections, Origin, Stats};
use crate::selftest::{Component, ForwardedTraffic, SelfTestResult, SelfTestResults};

mod document;
mod problems;
pub mod text;

pub use document::{
    ApiStatus, BackendStatus, DataplaneStatus, FrontendStatus, Problem, RepairStatus, RepairsStatus,
    SelfTestStatus, Status, TransitionStatus,
};
pub(crate) use document::{duration, milliseconds};
pub(crate) use problems::capitalized;

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
    /// Assembles the document.
    pub fn new(parts: &Parts<'_>) -> Self {
        let Parts { service, started, report, connection, origins, totals, traffic, forwarder, selftests } =
            *parts;
        let forwarded = forwarder.forwarded();
        let counts = (totals, &forwarded);
        let frontends = report.programmed.iter().flat_map(|state| &state.frontends).map(|f| FrontendStatus {
            vip: f.vip,
            port_name: f.port_name.clone(),
            client_affinity: f.affinity == Affinity::ClientIP,
            local_route_allowed: f.local_route_allowed,
            backends: backends(f, report, origins, counts, traffic),
        });
        let snapshot = report.view.as_ref().map(|view| &view.snapshot);
        let mut status = Self {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: started.elapsed().as_secs(),
            verdict: Verdict::default(),
            service: service.to_string(),
            phase: word(&report.phase),
            summary: summary(report),
            generation: snapshot.map_or(0, |s| s.generation),
            dataplane: DataplaneStatus::new(report, forwarder),
            repairs: RepairsStatus::new(&report.repairs),
            selftests: SelfTestStatus::all(selftests),
            transitions: report.transitions.iter().map(TransitionStatus::new).collect(),
            api: ApiStatus {
                state: word(&connection.state),
                since_timestamp: unix_seconds(connection.since),
                address: connection.address.map(|a| a.to_string()),
                resource_version: connection.resource_version.clone(),
                last_event_seconds_ago: connection.heard.map(|heard| heard.elapsed().as_secs()),
                last_error: connection.last_error.clone(),
                pending_plugin: connection.plugin.as_ref().map(|(command, _)| command.clone()),
                pending_plugin_seconds: connection
                    .plugin
                    .as_ref()
                    .map(|(_, since)| since.elapsed().as_secs()),
                expiry: connection.expiry,
            },
            frontends: frontends.collect(),
            retained: report.fail_open.iter().map(ToString::to_string).collect(),
            rejected: snapshot.iter().flat_map(|s| &s.rejected).map(ToString::to_string).collect(),
            problems: Vec::new(),
        };
        status.problems = problems::of(&status, &report.fail_open);
        status.verdict = Verdict::of(status.problems.iter().map(|problem| problem.severity));
        status
    }

    /// The verdict, the phase and one sentence about it.
    pub fn sentence(&self) -> String {
        format!("{}, {}: {}", self.verdict, self.phase, self.summary)
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
            "Waiting for the first response of the API. Rules of an earlier run, if any, stay in place"
                .to_owned()
        }
        Phase::Waiting => {
            "The API publishes nothing that can be programmed. The node is unchanged".to_owned()
        }
        Phase::Programmed if report.view.as_ref().is_some_and(|view| !view.snapshot.is_published()) => {
            "Using API servers from seeds and saved state. The API has not been read yet".to_owned()
        }
        Phase::Programmed if report.fail_open.iter().any(FailOpenReason::keeps) => {
            "Using cached API server endpoints".to_owned()
        }
        Phase::Programmed => "Rules match the current endpoints and health checks".to_owned(),
        Phase::Unrouted => format!(
            "{}. apivip could not add a route or routing rule that belongs to this: {}",
            match report.path.as_ref().map(|path| path.in_use) {
                Some(TrafficPath::Forwarder) => "The forwarder serves the virtual IPs",
                _ => "The kernel has the rules",
            },
            report.last_error.as_deref().unwrap_or("no reason given")
        ),
        Phase::Forwarding => "The forwarder serves the virtual IPs".to_owned(),
        Phase::Failed => format!(
            "The kernel rejected the rules, the previous state stays in place: {}",
            report.last_error.as_deref().unwrap_or("no reason given")
        ),
    }
}

/// The apiservers of one frontend: those that are used, and all others that are probed and could be.
fn backends(
    frontend: &DesiredFrontend,
    report: &Report,
    origins: &Origins,
    (totals, forwarded): (&BTreeMap<Backend, u64>, &BTreeMap<Backend, ForwardedConnections>),
    traffic: Option<&Traffic>,
) -> Vec<BackendStatus> {
    let view = report.view.as_ref();
    let snapshot = view.map(|v| &v.snapshot);
    let listed =
        snapshot.iter().flat_map(|s| &s.frontends).find(|f| f.vip == frontend.vip).map(|f| &f.backends);
    let published = listed.filter(|_| snapshot.is_some_and(|s| s.is_published()));
    let mut all: BTreeSet<Backend> = frontend.backends.iter().chain(&frontend.failed).copied().collect();
    all.extend(listed.into_iter().flatten());
    let ports: BTreeSet<u16> = all.iter().map(Backend::port).collect();
    let family = Family::of(frontend.vip.ip());
    let related = |b: &&Backend| Family::of(b.ip()) == family && ports.contains(&b.port());
    all.extend(view.iter().flat_map(|v| v.backends.keys()).filter(related));
    let now = unix_now();
    // At most 64 share.
    let share = u32::try_from(frontend.backends.len()).map_or(0.0, |n| 1.0 / f64::from(n.max(1)));
    let status = |address: Backend| {
        let origin = origins.of(address);
        let health = view.and_then(|v| v.backends.get(&address));
        let open = traffic.map(|traffic| traffic.of(frontend.vip, address));
        let bytes = open.and_then(|open| open.bytes);
        let forwarded = forwarded.get(&address).copied().unwrap_or_default();
        // The latest round trip of a backend that does not answer is of the past.
        let round_trip = health.and_then(BackendHealth::current_round_trip);
        BackendStatus {
            address,
            state: health.map_or(HealthState::Unknown, |h| h.state).label().to_owned(),
            since_seconds: health.map(|h| h.since.elapsed().as_secs()),
            failure: health.and_then(|h| h.failure).map(|reason: FailReason| reason.label().to_owned()),
            reset_withheld: health.and_then(|h| h.termination_blocked),
            hold_down_seconds: health.and_then(|h| h.hold_down_until).and_then(seconds_left),
            authentication: health.and_then(|h| h.readyz).map(|readyz| readyz.auth.label().to_owned()),
            readiness_known: health.and_then(|h| h.readyz).map(|readyz| readyz.readiness_known),
            source: origin.map(|o| o.source),
            source_age_seconds: origin.map(|o| now.saturating_sub(o.since)),
            published: published.is_some_and(|p| p.contains(&address)),
            used: frontend.backends.contains(&address),
            share: if frontend.backends.contains(&address) { share } else { 0.0 },
            round_trip_us: round_trip.and_then(|time| u64::try_from(time.as_micros()).ok()),
            connections: totals.get(&address).copied().unwrap_or(0),
            forwarded_connections: forwarded.total,
            forwarded_open: forwarded.open,
            open: open.map(|open| open.connections),
            bytes_up: bytes.map(|bytes| bytes.up),
            bytes_down: bytes.map(|bytes| bytes.down),
        }
    };
    all.into_iter().map(status).collect()
}

/// Whole seconds, rounded up; `None` when it is over.
fn seconds_left(until: Instant) -> Option<u64> {
    let left = until.checked_duration_since(Instant::now())?;
    Some(left.as_secs() + 1)
}

impl DataplaneStatus {
    fn new(report: &Report, stats: &Stats) -> Self {
        let path = report.path.as_ref();
        Self {
            table_owned: report.owned,
            in_use: path.map_or(TrafficPath::None, |path| path.in_use).label().to_owned(),
            since_seconds: path.map_or(0, |path| path.since.elapsed().as_secs()),
            reason: path.and_then(|path| path.reason.as_deref()).map(str::to_owned),
            fallback_active: path.is_some_and(|path| path.fallback_active),
            forwarder_connections: Origin::ALL.into_iter().map(|origin| stats.open(origin)).sum(),
            accept_paused: stats.accept_paused(),
            draining: path.is_some_and(|path| path.draining),
        }
    }
}

impl RepairsStatus {
    fn new(repairs: &Repairs) -> Self {
        let latest = repairs.latest.iter().map(|Repair { what, at, found, changes, by }| RepairStatus {
            object: what.label().to_owned(),
            timestamp: unix_time(*at),
            seconds_ago: at.elapsed().as_secs(),
            found: (*found).to_owned(),
            changes: *changes,
            by: by.clone(),
        });
        Self { total: repairs.total, latest: latest.collect() }
    }
}

impl SelfTestStatus {
    fn all(results: &SelfTestResults) -> Vec<Self> {
        results.iter().map(|(vip, latest)| Self::new(*vip, latest)).collect()
    }

    fn new(vip: Vip, latest: &SelfTestResult) -> Self {
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self {
            vip,
            ready: latest.is_ready(),
            failure: latest.outcome.err().map(|failure| failure.label().to_owned()),
            consecutive_failures: latest.failures,
            latency_us: latest.outcome.ok().map(micros),
            seconds_ago: latest.at.elapsed().as_secs(),
            answered_seconds_ago: latest.answered.map(|at| at.elapsed().as_secs()),
            answered_by: latest.by.map(|by| by.label().to_owned()),
            explanation: latest.by.map(|by: Component| by.sentence().to_owned()),
            backend: latest.backend,
            pod_traffic: latest.pod_traffic.label().to_owned(),
            pod_connections_blocked: match latest.pod_traffic {
                ForwardedTraffic::Blocked(came) => Some(came),
                ForwardedTraffic::Passing | ForwardedTraffic::Unknown => None,
            },
        }
    }
}

impl TransitionStatus {
    fn new(transition: &HealthTransition) -> Self {
        let ended = transition.ended;
        Self {
            timestamp: unix_time(transition.at),
            seconds_ago: transition.at.elapsed().as_secs(),
            backend: transition.backend,
            from: transition.from.label().to_owned(),
            to: transition.to.label().to_owned(),
            reason: transition.reason.map(|reason: FailReason| reason.label().to_owned()),
            trigger: transition.trigger.label().to_owned(),
            decision_ms: millis(transition.decision),
            commit_ms: millis(transition.commit),
            flows_ms: ended.map(|ended| millis(ended.took)),
            flows: ended.map(|ended| ended.flows),
            remaining: ended.map(|ended| ended.remaining),
        }
    }
}

/// Seconds since 1970 at that time, by the clock as it is set now.
fn unix_time(at: Instant) -> u64 {
    SystemTime::now().checked_sub(at.elapsed()).map_or(0, unix_seconds)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
