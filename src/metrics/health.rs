//! Metrics of apiservers' health, and of the daemon's own connections to the virtual IPs.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, Reason};
use crate::dataplane::flows::{FlowReport, Remaining};
use crate::health;
use crate::model::health::{FailReason, HealthState};
use crate::model::types::Vip;
use crate::selftest::{self, Component, SelfTestFailure, SelfTestResults};

/// Seconds. A probe takes a millisecond; a cut cable is decided in two seconds; flows are given 15 s.
const BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// A part of the time between a fault and the end of its last consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the first sign to the decision.
    Decision,
    /// From the decision to the commit.
    Commit,
    /// From the first sign to the commit: both of them.
    Reaction,
    /// From the commit to the end of the last flow.
    Flows,
    /// From the decision to the end of the last flow.
    Notified,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Decision, Self::Commit, Self::Reaction, Self::Flows, Self::Notified];

    fn label(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Commit => "commit",
            Self::Reaction => "reaction",
            Self::Flows => "flows",
            Self::Notified => "notified",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    to: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Debug)]
pub(super) struct HealthMetrics {
    probes: Family<crate::metrics::Outcome, Counter>,
    probe_seconds: Histogram,
    transitions: Family<Transition, Counter>,
    stages: Family<StageLabel, Histogram, fn() -> Histogram>,
    ended: Family<Method, Counter>,
    remaining: Family<Reason, Counter>,
}

impl HealthMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let probes = Family::<crate::metrics::Outcome, Counter>::default();
        for outcome in ["ready", "alive", "unready"].into_iter().chain(FailReason::ALL.map(FailReason::label))
        {
            let _ = probes.get_or_create(&crate::metrics::Outcome { outcome });
        }
        registry.register("probes", "Finished probes of API servers, by outcome", probes.clone());
        let probe_seconds = Histogram::new(BUCKETS);
        let help = "Duration of answered probes";
        registry.register_with_unit("probe", help, Unit::Seconds, probe_seconds.clone());
        let transitions = Family::<Transition, Counter>::default();
        let help = "Changes of the state of API servers, by new state and reason";
        registry.register("transitions", help, transitions.clone());
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let stages = Family::<StageLabel, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        let help = "Stages of a state change: decision (from the first sign), commit (from the decision), reaction (both), flows (from the commit to the end of the last connection), notified (from the decision to the end of the last connection)";
        registry.register_with_unit("transition", help, Unit::Seconds, stages.clone());
        let ended = Family::<Method, Counter>::default();
        for method in ["challenge", "reset", "socket", "syn_sent"] {
            let _ = ended.get_or_create(&Method { method });
        }
        registry.register(
            "flows_ended",
            "Connections to silent or failed API servers that were ended or moved, by method",
            ended.clone(),
        );
        let remaining = Family::<Reason, Counter>::default();
        for reason in Remaining::ALL {
            let _ = remaining.get_or_create(&Reason { reason: reason.label() });
        }
        registry.register(
            "flows_remaining",
            "Connections to failed API servers that could not be ended",
            remaining.clone(),
        );
        Self { probes, probe_seconds, transitions, stages, ended, remaining }
    }
}

impl Metrics {
    /// A backend changed its state.
    pub fn changed(&self, to: HealthState, reason: Option<FailReason>) {
        let reason = reason.map_or("none", FailReason::label);
        self.health.transitions.get_or_create(&Transition { to: to.label(), reason }).inc();
    }

    /// A stage of a change took this long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.health.stages.get_or_create(&StageLabel { stage: stage.label() }).observe(took.as_secs_f64());
    }

    /// An order about flows ended.
    pub fn flows(&self, report: &FlowReport) {
        let add = |method: &'static str, count: u64| {
            self.health.ended.get_or_create(&Method { method }).inc_by(count);
        };
        add("challenge", report.ended);
        add("syn_sent", report.syn_sent);
        if !report.purpose.ends() {
            return;
        }
        let remaining: u64 = report.remaining.values().sum();
        // One that was cancelled does not say how many it reached.
        if !report.cancelled {
            add("reset", report.flows.saturating_sub(report.sockets + remaining));
        }
        add("socket", report.sockets);
        for (reason, count) in &report.remaining {
            self.health.remaining.get_or_create(&Reason { reason: reason.label() }).inc_by(*count);
        }
        if report.flows > 0 && !report.cancelled {
            self.stage(Stage::Flows, report.last_ended);
        }
    }
}

impl health::ProbeObserver for Metrics {
    fn probed(&self, outcome: &'static str, took: Duration) {
        self.health.probes.get_or_create(&crate::metrics::Outcome { outcome }).inc();
        if matches!(outcome, "ready" | "alive" | "unready") {
            self.health.probe_seconds.observe(took.as_secs_f64());
        }
    }
}

/// Seconds. TCP, TLS and an answer take some milliseconds; a test has 4 s.
const SELFTEST_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 4.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ComponentLabel {
    component: &'static str,
}

#[derive(Debug)]
pub(super) struct SelfTestMetrics {
    answers: Family<ComponentLabel, Counter>,
    failures: Family<Reason, Counter>,
    serving: Family<ComponentLabel, Gauge>,
    seconds: Histogram,
}

impl SelfTestMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (answers, serving) =
            (Family::<ComponentLabel, Counter>::default(), Family::<ComponentLabel, Gauge>::default());
        for component in Component::ALL {
            let _ = answers.get_or_create(&ComponentLabel { component: component.label() });
            let _ = serving.get_or_create(&ComponentLabel { component: component.label() });
        }
        let failures = Family::<Reason, Counter>::default();
        for failure in SelfTestFailure::all() {
            let _ = failures.get_or_create(&Reason { reason: failure.label() });
        }
        let help = "Self-tests that an API server answered, by the component that routed them";
        registry.register("selftest_answers", help, answers.clone());
        let help = "Self-tests that no API server answered, by reason";
        registry.register("selftest_failures", help, failures.clone());
        let help = "Virtual IPs and ports whose latest self-test this component handled";
        registry.register("selftest_serving", help, serving.clone());
        let seconds = Histogram::new(SELFTEST_BUCKETS);
        let help = "Time from the first packet of a self-test to the answer";
        registry.register_with_unit("selftest", help, Unit::Seconds, seconds.clone());
        Self { answers, failures, serving, seconds }
    }
}

impl selftest::SelfTestObserver for Metrics {
    fn tested(&self, vip: Vip, results: &SelfTestResults) {
        let metrics = &self.selftest;
        if let Some(latest) = results.get(&vip) {
            match latest.outcome {
                Ok(took) => {
                    let component = latest.by.unwrap_or(Component::Unknown).label();
                    metrics.answers.get_or_create(&ComponentLabel { component }).inc();
                    metrics.seconds.observe(took.as_secs_f64());
                }
                Err(failure) => {
                    metrics.failures.get_or_create(&Reason { reason: failure.label() }).inc();
                }
            }
        }
        for component in Component::ALL {
            let count = results.values().filter(|latest| latest.by == Some(component)).count();
            let serving = metrics.serving.get_or_create(&ComponentLabel { component: component.label() });
            serving.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
