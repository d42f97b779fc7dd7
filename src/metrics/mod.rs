//! Metrics, in the Prometheus text format. Labels come from closed sets, except the backend's address.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::dataplane::DataplaneError;
use crate::kube::Connection;
use crate::model::address::RejectReason;
use crate::model::health::HealthState as Health;
use crate::model::report::{Phase, Report, TrafficPath};
use crate::model::types::Backend;
use crate::proxy::Stats;

mod classic;
mod forwarder;
mod health;
mod live;
mod repair;
mod selftest;

pub use classic::classic;
use forwarder::{Forwarded, PathMetrics};
use health::HealthMetrics;
pub use health::Stage;
use live::Live;
use repair::RepairMetrics;
use selftest::SelfTestMetrics;

/// Seconds. A commit takes some 0.2 ms alone and seconds behind another program's.
const BUCKETS: [f64; 14] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// The metrics that the daemon's parts write to.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    commits: Family<Outcome, Counter>,
    commit_failures: Family<Reason, Counter>,
    rejected: Family<Reason, Counter>,
    commit_seconds: Histogram,
    reaction_seconds: Histogram,
    programmed: Gauge,
    frontends: Gauge,
    backends: Family<StateLabel, Gauge>,
    used: Gauge,
    holds: Gauge,
    health: HealthMetrics,
    path: PathMetrics,
    repair: RepairMetrics,
    selftest: SelfTestMetrics,
    forwarder: Arc<Stats>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Metrics {
    /// `forwarder`: what the forwarder counts.
    pub fn new(forwarder: Arc<Stats>) -> Self {
        let mut registry = Registry::with_prefix("apivip");
        let commits = Family::<Outcome, Counter>::default();
        for outcome in ["ok", "failed"] {
            let _ = commits.get_or_create(&Outcome { outcome });
        }
        registry.register("commits", "Transactions sent to nf_tables", commits.clone());
        let commit_failures = Family::<Reason, Counter>::default();
        for reason in DataplaneError::LABELS {
            let _ = commit_failures.get_or_create(&Reason { reason });
        }
        registry.register(
            "commit_failures",
            "Transactions that nf_tables did not take, by reason",
            commit_failures.clone(),
        );
        let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("APIVIP_COMMIT"));
        let build = Info::new([("version", version), ("commit", commit)]);
        registry.register("build", "The version and the commit that this daemon was built from", build);
        let rejected = Family::<Reason, Counter>::default();
        for reason in RejectReason::ALL {
            let _ = rejected.get_or_create(&Reason { reason: reason.label() });
        }
        registry.register(
            "rejected_addresses",
            "Published addresses that were left out, each counted when it first appears",
            rejected.clone(),
        );
        let commit_seconds = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "commit",
            "Time from asking nf_tables for a transaction to its answer",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let reaction_seconds = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "reaction",
            "Time from the arrival of a watch event, or the first sign of a change of health, to the first commit that follows",
            Unit::Seconds,
            reaction_seconds.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let programmed = gauge("programmed", "1 while the kernel has the desired state");
        let frontends = gauge("frontends", "Virtual IPs and ports that are redirected");
        let used = gauge("backends_used", "Apiservers that share new connections");
        let holds =
            gauge("holds", "Parts of the rules that are kept although the API no longer publishes them");
        let backends = Family::<StateLabel, Gauge>::default();
        for state in Health::ALL {
            let _ = backends.get_or_create(&StateLabel { state: state.label() });
        }
        registry.register("backends", "Apiservers that are probed, by their state", backends.clone());
        let health = HealthMetrics::new(&mut registry);
        let path = PathMetrics::new(&mut registry);
        let repair = RepairMetrics::new(&mut registry);
        let selftest = SelfTestMetrics::new(&mut registry);
        let metrics = Self {
            registry,
            commits,
            commit_failures,
            rejected,
            commit_seconds,
            reaction_seconds,
            programmed,
            frontends,
            backends,
            used,
            holds,
            health,
            path,
            repair,
            selftest,
            forwarder,
        };
        metrics.state(&Report::default());
        metrics
    }

    /// A transaction was committed in `took`; if it was the first for an event, `since_event` after that was noticed.
    pub fn committed(&self, took: Duration, since_event: Option<Duration>) {
        self.commits.get_or_create(&Outcome { outcome: "ok" }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
        if let Some(since_event) = since_event {
            self.reaction_seconds.observe(since_event.as_secs_f64());
        }
    }

    /// A transaction was not taken, for one of [`DataplaneError::LABELS`].
    pub fn commit_failed(&self, reason: &'static str) {
        self.commits.get_or_create(&Outcome { outcome: "failed" }).inc();
        self.commit_failures.get_or_create(&Reason { reason }).inc();
    }

    /// What the forwarder counts.
    pub fn forwarder(&self) -> &Stats {
        &self.forwarder
    }

    /// An address was left out.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// The reconciler finished a step.
    pub fn state(&self, report: &Report) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let frontends = report.programmed.as_ref().map_or(&[][..], |state| &state.frontends);
        self.way(report);
        let by_rules = report.path.as_ref().is_none_or(|path| path.in_use != TrafficPath::Forwarder);
        let programmed = matches!(report.phase, Phase::Programmed | Phase::Unrouted) && by_rules;
        self.programmed.set(i64::from(programmed));
        self.frontends.set(count(frontends.len()));
        let probed = || report.view.iter().flat_map(|view| view.backends.values());
        for state in Health::ALL {
            let number = probed().filter(|backend| backend.state == state).count();
            self.backends.get_or_create(&StateLabel { state: state.label() }).set(count(number));
        }
        self.used.set(count(report.programmed.as_ref().map_or(0, |state| state.backends().len())));
        self.holds.set(count(report.fail_open.len()));
    }

    /// The text of all metrics, with values that others keep: the connection to the API and the totals.
    pub fn encode(
        &self,
        connection: &Connection,
        totals: &BTreeMap<Backend, u64>,
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        let mut live = Registry::with_prefix("apivip");
        live.register_collector(Box::new(Live { connection: connection.clone(), totals: totals.clone() }));
        live.register_collector(Box::new(Forwarded(Arc::clone(&self.forwarder))));
        let mut more = String::new();
        encode(&mut more, &live)?;
        // Each part ends with an end mark; the whole has one.
        Ok(text.trim_end_matches("# EOF\n").to_owned() + &more)
    }
}
