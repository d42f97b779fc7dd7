//! Metrics of the daemon, as OpenMetrics and in the older Prometheus text format. Labels come from closed sets, except the
//! backend's address.
//!
//! In: what the daemon's parts report. Out: the text of all metrics, with values that others keep.

mod dataplane;
mod health;

use dataplane::{DataplaneMetrics, ProxyCollector, RepairMetrics};
pub use health::Stage;
use health::{HealthMetrics, SelfTestMetrics};

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::dataplane::DataplaneError;
use crate::kube::{Connection, ConnectionState};
use crate::model::address::RejectReason;
use crate::model::health::HealthState as Health;
use crate::model::report::{Phase, Report, TrafficPath};
use crate::model::types::Backend;
use crate::model::verdict::Verdict;
use crate::proxy::Stats;

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
    in_use: Gauge,
    retained: Gauge,
    health: HealthMetrics,
    path: DataplaneMetrics,
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
        registry.register("commits", "Transactions sent to nf_tables, by outcome", commits.clone());
        let commit_failures = Family::<Reason, Counter>::default();
        for reason in DataplaneError::LABELS {
            let _ = commit_failures.get_or_create(&Reason { reason });
        }
        registry.register("commit_failures", "Transactions that failed, by reason", commit_failures.clone());
        let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("APIVIP_COMMIT"));
        let build = Info::new([("version", version), ("commit", commit)]);
        registry.register("build", "Version and commit of this daemon", build);
        let rejected = Family::<Reason, Counter>::default();
        for reason in RejectReason::ALL {
            let _ = rejected.get_or_create(&Reason { reason: reason.label() });
        }
        registry.register(
            "rejected_addresses",
            "Published addresses that apivip ignores, each counted when it first appears",
            rejected.clone(),
        );
        let commit_seconds = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "commit",
            "Duration of transactions of nf_tables",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let reaction_seconds = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "reaction",
            "Time from the arrival of a watch event, or the first sign of a health change, to the first commit that follows",
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
        let in_use = gauge("backends_in_use", "API servers that share new connections");
        let retained = gauge(
            "retained_objects",
            "Parts of the rules that stay in place although the API no longer publishes them",
        );
        let backends = Family::<StateLabel, Gauge>::default();
        for state in Health::ALL {
            let _ = backends.get_or_create(&StateLabel { state: state.label() });
        }
        registry.register("backends", "Probed API servers, by state", backends.clone());
        let health = HealthMetrics::new(&mut registry);
        let path = DataplaneMetrics::new(&mut registry);
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
            in_use,
            retained,
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
        self.record_dataplane(report);
        let by_rules = report.path.as_ref().is_none_or(|path| path.in_use != TrafficPath::Forwarder);
        let programmed = matches!(report.phase, Phase::Programmed | Phase::Unrouted) && by_rules;
        self.programmed.set(i64::from(programmed));
        self.frontends.set(count(frontends.len()));
        let probed = || report.view.iter().flat_map(|view| view.backends.values());
        for state in Health::ALL {
            let number = probed().filter(|backend| backend.state == state).count();
            self.backends.get_or_create(&StateLabel { state: state.label() }).set(count(number));
        }
        self.in_use.set(count(report.programmed.as_ref().map_or(0, |state| state.backends().len())));
        self.retained.set(count(report.fail_open.len()));
    }

    /// The text of all metrics, with values that others keep: the verdict, the connection to the API and the totals.
    pub fn encode(
        &self,
        verdict: Verdict,
        connection: &Connection,
        totals: &BTreeMap<Backend, u64>,
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        let mut collected = Registry::with_prefix("apivip");
        collected.register_collector(Box::new(ScrapeCollector {
            verdict,
            connection: connection.clone(),
            totals: totals.clone(),
        }));
        collected.register_collector(Box::new(ProxyCollector(Arc::clone(&self.forwarder))));
        let mut rest = String::new();
        encode(&mut rest, &collected)?;
        // Each part ends with an end mark; the whole has one.
        Ok(text.trim_end_matches("# EOF\n").to_owned() + &rest)
    }
}

/// Values that are read at each scrape.
#[derive(Debug)]
struct ScrapeCollector {
    pub verdict: Verdict,
    pub connection: Connection,
    pub totals: BTreeMap<Backend, u64>,
}

impl Collector for ScrapeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = [
            ("api_reconnects", "Sessions with an API server after the first", self.connection.reconnects),
            ("api_relists", "Lists of a collection after its first", self.connection.relists),
            ("api_events", "Watch events that changed an object", self.connection.events),
            ("api_bookmarks", "Watch bookmarks", self.connection.bookmarks),
            (
                "api_stale",
                "Watch events and bookmarks that were not newer than the known state and changed nothing",
                self.connection.stale,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "verdict",
            "1 for the verdict of apivip status, 0 for the others",
            None,
            ConstGauge::new(0i64).metric_type(),
        )?;
        for verdict in Verdict::ALL {
            let gauge = ConstGauge::new(i64::from(verdict == self.verdict));
            gauge.encode(family.encode_family(&[("verdict", verdict.label())])?)?;
        }
        let synced = ConstGauge::new(i64::from(self.connection.state == ConnectionState::Synced));
        synced.encode(encoder.encode_descriptor(
            "api_synced",
            "1 while the Service and its endpoints are watched",
            None,
            synced.metric_type(),
        )?)?;
        if let Some(heard) = self.connection.heard {
            let at = SystemTime::now().checked_sub(heard.elapsed()).unwrap_or(UNIX_EPOCH);
            let at = ConstGauge::new(at.duration_since(UNIX_EPOCH).map_or(0.0, |at| at.as_secs_f64()));
            at.encode(encoder.encode_descriptor(
                "api_last_event_timestamp_seconds",
                "Time of the last response or event about the Service or its endpoints, in seconds since 1970",
                None,
                at.metric_type(),
            )?)?;
        }
        let mut family = encoder.encode_descriptor(
            "credential_expiry_timestamp_seconds",
            "Expiry of the CA, the client certificate and the token, in seconds since 1970",
            None,
            synced.metric_type(),
        )?;
        for (credential, end) in self.connection.expiry.dates() {
            ConstGauge::new(end).encode(family.encode_family(&[("credential", credential)])?)?;
        }
        let sample = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "backend_connections",
            "Connections sent to each API server",
            None,
            sample.metric_type(),
        )?;
        for (backend, total) in &self.totals {
            let labels = [("backend", backend.to_string())];
            ConstCounter::new(*total).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The same metrics: a counter's family carries the name of its samples there, infos are gauges, and there are no units and
/// no end mark.
pub fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        // Help comes ahead of the type, and only the type says how the family is called.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            // Writing to a string does not fail.
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_family_is_named_like_its_samples() {
        let open_metrics = "# HELP a_commits Transactions.\n# TYPE a_commits counter\na_commits_total{x=\"y\"} 3\n\
                    # HELP a_commit_seconds Time.\n# TYPE a_commit_seconds histogram\n# UNIT a_commit_seconds seconds\n\
                    a_commit_seconds_sum 1.5\n# HELP a_build What.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_commits_total Transactions.\n# TYPE a_commits_total counter\na_commits_total{x=\"y\"} 3\n\
                        # HELP a_commit_seconds Time.\n# TYPE a_commit_seconds histogram\na_commit_seconds_sum 1.5\n\
                        # HELP a_build_info What.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n";
        assert_eq!(prometheus_text(open_metrics), expected);
    }
}
