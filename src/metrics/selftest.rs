//! Metrics of the daemon's own connections to the virtual IPs.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, Reason};
use crate::model::types::Vip;
use crate::selftest::{Component, SelfTestFailure, SelfTestObserver, SelfTestResults};

/// Seconds. TCP, TLS and an answer take some milliseconds; a test has 4 s.
const BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 4.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    component: &'static str,
}

#[derive(Debug)]
pub(super) struct SelfTestMetrics {
    answers: Family<By, Counter>,
    failures: Family<Reason, Counter>,
    serving: Family<By, Gauge>,
    seconds: Histogram,
}

impl SelfTestMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (answers, serving) = (Family::<By, Counter>::default(), Family::<By, Gauge>::default());
        for component in Component::ALL {
            let _ = answers.get_or_create(&By { component: component.label() });
            let _ = serving.get_or_create(&By { component: component.label() });
        }
        let failures = Family::<Reason, Counter>::default();
        for failure in SelfTestFailure::all() {
            let _ = failures.get_or_create(&Reason { reason: failure.label() });
        }
        let help = "Self-tests that an apiserver answered, by the component that led to it";
        registry.register("selftest_answers", help, answers.clone());
        let help = "Self-tests that no apiserver answered, by reason";
        registry.register("selftest_failures", help, failures.clone());
        let help = "Virtual IPs and ports whose latest self-test was taken by this component";
        registry.register("selftest_serving", help, serving.clone());
        let seconds = Histogram::new(BUCKETS);
        let help = "Time from the first packet of a self-test to the answer";
        registry.register_with_unit("selftest", help, Unit::Seconds, seconds.clone());
        Self { answers, failures, serving, seconds }
    }
}

impl SelfTestObserver for Metrics {
    fn tested(&self, vip: Vip, results: &SelfTestResults) {
        let metrics = &self.selftest;
        if let Some(latest) = results.get(&vip) {
            match latest.outcome {
                Ok(took) => {
                    let component = latest.by.unwrap_or(Component::Unknown).label();
                    metrics.answers.get_or_create(&By { component }).inc();
                    metrics.seconds.observe(took.as_secs_f64());
                }
                Err(failure) => {
                    metrics.failures.get_or_create(&Reason { reason: failure.label() }).inc();
                }
            }
        }
        for component in Component::ALL {
            let count = results.values().filter(|latest| latest.by == Some(component)).count();
            let serving = metrics.serving.get_or_create(&By { component: component.label() });
            serving.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
