//! Metrics of what others keep: the connection to the API, and how many connections each apiserver got.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::kube::{Connection, ConnectionState};
use crate::model::types::Backend;

/// Values that are read when somebody asks.
#[derive(Debug)]
pub(super) struct Live {
    pub connection: Connection,
    pub totals: BTreeMap<Backend, u64>,
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = [
            ("api_reconnects", "Sessions with an apiserver after the first", self.connection.reconnects),
            ("api_relists", "Lists after the first of each collection", self.connection.relists),
            ("api_events", "Watch events that changed an object", self.connection.events),
            ("api_bookmarks", "Watch bookmarks", self.connection.bookmarks),
            (
                "api_stale",
                "Watch events and bookmarks that were not newer than what was known, and changed nothing",
                self.connection.stale,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
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
                "api_last_heard_timestamp_seconds",
                "When an apiserver last said something of the Service or its endpoints, in seconds since 1970",
                None,
                at.metric_type(),
            )?)?;
        }
        let mut family = encoder.encode_descriptor(
            "credential_expiry_timestamp_seconds",
            "When the CA, the client certificate and the token expire, in seconds since 1970",
            None,
            synced.metric_type(),
        )?;
        for (credential, end) in self.connection.expiry.dates() {
            ConstGauge::new(end).encode(family.encode_family(&[("credential", credential)])?)?;
        }
        let sample = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "backend_connections",
            "Connections sent to each apiserver",
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
