//! Metrics of the dataplane in use, of the proxy, and of drift that was repaired.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{BUCKETS, Metrics};
use crate::dataplane::DriftSource;
use crate::model::report::{RepairedObject, Report, TrafficPath};
use crate::proxy::{DialFailure, Direction, Origin, ResetCause, Stats};

const DATAPLANES: [TrafficPath; 2] = [TrafficPath::Nftables, TrafficPath::Forwarder];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dataplane {
    dataplane: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

#[derive(Debug)]
pub(super) struct DataplaneMetrics {
    in_use: Family<Dataplane, Gauge>,
    fallback_active: Gauge,
    switches: Family<To, Counter>,
}

impl DataplaneMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let in_use = Family::<Dataplane, Gauge>::default();
        let fallback_active = Gauge::default();
        let switches = Family::<To, Counter>::default();
        for dataplane in DATAPLANES {
            let _ = in_use.get_or_create(&Dataplane { dataplane: dataplane.label() });
            let _ = switches.get_or_create(&To { to: dataplane.label() });
        }
        registry.register(
            "dataplane",
            "1 for the data path of new connections to the virtual IPs",
            in_use.clone(),
        );
        registry.register(
            "forwarder_fallback_active",
            "1 while the forwarder is active as the fallback for rules, 0 also with --mode forwarder",
            fallback_active.clone(),
        );
        registry.register(
            "dataplane_switches",
            "Switches of new connections to this data path, without the first selection",
            switches.clone(),
        );
        Self { in_use, fallback_active, switches }
    }
}

impl Metrics {
    /// New connections use another dataplane than before.
    pub fn switched(&self, to: TrafficPath) {
        self.path.switches.get_or_create(&To { to: to.label() }).inc();
    }

    pub(super) fn record_dataplane(&self, report: &Report) {
        let path = report.path.as_ref();
        let now = path.map(|path| path.in_use);
        self.path.fallback_active.set(path.is_some_and(|path| path.fallback_active).into());
        for dataplane in DATAPLANES {
            let gauge = self.path.in_use.get_or_create(&Dataplane { dataplane: dataplane.label() });
            gauge.set(i64::from(now == Some(dataplane)));
        }
    }
}

/// What the forwarder counts.
#[derive(Debug)]
pub(super) struct ProxyCollector(pub Arc<Stats>);

impl Collector for ProxyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(stats) = self;
        let mut counters =
            |name: &str, help: &str, label: &str, values: &mut dyn Iterator<Item = (&str, u64)>| {
                let kind = ConstCounter::new(0u64).metric_type();
                let mut family = encoder.encode_descriptor(name, help, None, kind)?;
                for (value, count) in values {
                    ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
                }
                Ok::<_, fmt::Error>(())
            };
        counters(
            "forwarder_accepted",
            "Connections that the forwarder accepted from clients, by kind of listener",
            "listener",
            &mut Origin::ALL.into_iter().map(|o| (o.label(), stats.accepted(o))),
        )?;
        counters(
            "forwarder_bytes",
            "Bytes that the forwarder transferred: up to API servers, down to clients",
            "direction",
            &mut Direction::ALL.into_iter().map(|d| (d.label(), stats.bytes(d))),
        )?;
        counters(
            "forwarder_dial_failures",
            "Connections to API servers that the forwarder could not open, by reason",
            "reason",
            &mut DialFailure::ALL.into_iter().map(|r| (r.label(), stats.dial_failures(r))),
        )?;
        counters(
            "forwarder_resets",
            "Client connections that the forwarder reset by its own decision, by cause",
            "cause",
            &mut ResetCause::ALL.into_iter().map(|c| (c.label(), stats.resets(c))),
        )?;
        let forwarded = stats.forwarded().into_iter().map(|(b, count)| (b.to_string(), count.total));
        let forwarded: Vec<(String, u64)> = forwarded.collect();
        counters(
            "forwarder_backend_connections",
            "Connections that the forwarder carried to each API server, through virtual IPs and --listen",
            "backend",
            &mut forwarded.iter().map(|(backend, total)| (backend.as_str(), *total)),
        )?;
        for (name, help, value) in [
            (
                "forwarder_hedged_dials",
                "Dials that started while another dial for the same client was in progress",
                stats.hedged(),
            ),
            (
                "forwarder_accept_pauses",
                "Pauses of accepting connections, at the connection limit or without a free file descriptor",
                stats.accept_pauses(),
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let paused = ConstGauge::new(i64::from(stats.accept_paused()));
        paused.encode(encoder.encode_descriptor(
            "forwarder_accept_paused",
            "1 while the forwarder accepts no connections",
            None,
            paused.metric_type(),
        )?)?;
        let mut open = encoder.encode_descriptor(
            "forwarder_connections",
            "Open connections of the forwarder, by kind of listener",
            None,
            paused.metric_type(),
        )?;
        for origin in Origin::ALL {
            let count = i64::try_from(stats.open(origin)).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(open.encode_family(&[("listener", origin.label())])?)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    object: &'static str,
    found: &'static str,
}

fn repair_labels(what: RepairedObject, found: DriftSource) -> RepairLabels {
    RepairLabels { object: what.label(), found: found.label() }
}

#[derive(Debug)]
pub(super) struct RepairMetrics {
    repairs: Family<RepairLabels, Counter>,
    seconds: Histogram,
}

impl RepairMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let repairs = Family::<RepairLabels, Counter>::default();
        for what in RepairedObject::ALL {
            for found in DriftSource::ALL {
                let _ = repairs.get_or_create(&repair_labels(what, found));
            }
        }
        let help = "Repairs of changes that other programs made to the table or routes of apivip";
        registry.register("drift_repairs", help, repairs.clone());
        let seconds = Histogram::new(BUCKETS);
        let help = "Time from the detection of a changed table to the commit that repaired it";
        registry.register_with_unit("drift_repair", help, Unit::Seconds, seconds.clone());
        Self { repairs, seconds }
    }
}

impl Metrics {
    /// Something was made again.
    pub fn repaired(&self, what: RepairedObject, found: DriftSource) {
        self.repair.repairs.get_or_create(&repair_labels(what, found)).inc();
    }

    /// The table was made again, so long after its change was noticed.
    pub fn table_repaired(&self, after: Duration) {
        self.repair.seconds.observe(after.as_secs_f64());
    }
}
