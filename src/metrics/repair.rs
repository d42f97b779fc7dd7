//! Metrics of what others changed and the daemon made again.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{BUCKETS, Metrics};
use crate::dataplane::drift::Found;
use crate::model::report::RepairedObject;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    object: &'static str,
    found: &'static str,
}

fn labels(what: RepairedObject, found: Found) -> Labels {
    Labels { object: what.label(), found: found.label() }
}

#[derive(Debug)]
pub(super) struct RepairMetrics {
    repairs: Family<Labels, Counter>,
    seconds: Histogram,
}

impl RepairMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let repairs = Family::<Labels, Counter>::default();
        for what in RepairedObject::ALL {
            for found in Found::ALL {
                let _ = repairs.get_or_create(&labels(what, found));
            }
        }
        let help = "Times that others changed what the daemon had made, and it was made again";
        registry.register("drift_repairs", help, repairs.clone());
        let seconds = Histogram::new(BUCKETS);
        let help = "Time from noticing that the table was changed to the commit that repaired it";
        registry.register_with_unit("drift_repair", help, Unit::Seconds, seconds.clone());
        Self { repairs, seconds }
    }
}

impl Metrics {
    /// Something was made again.
    pub fn repaired(&self, what: RepairedObject, found: Found) {
        self.repair.repairs.get_or_create(&labels(what, found)).inc();
    }

    /// The table was made again, so long after its change was noticed.
    pub fn table_repaired(&self, after: Duration) {
        self.repair.seconds.observe(after.as_secs_f64());
    }
}
