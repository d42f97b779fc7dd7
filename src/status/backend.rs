//! One apiserver in `apivip status`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::desired::DesiredFrontend;
use crate::model::health::{FailReason, State};
use crate::model::merge::{Origins, Source};
use crate::model::types::{Backend, Family};
use crate::report::Report;

/// One apiserver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: Backend,
    /// `up`, `draining`, `down`, or `unknown` if it has not been probed.
    pub state: String,
    /// Seconds since it entered that state.
    pub since_seconds: Option<u64>,
    /// Why its latest probe failed, while it does.
    pub failing: Option<String>,
    /// Seconds for which it must go on answering before it is up again, after it failed repeatedly.
    pub hold_down_seconds: Option<u64>,
    /// Where it was learnt: `published`, `seed` or `saved`.
    pub source: Option<Source>,
    /// Seconds since that source first named it.
    pub source_age_seconds: Option<u64>,
    /// Whether the API publishes it.
    pub published: bool,
    /// Whether it shares new connections.
    pub used: bool,
    /// Smoothed round trip of probes, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Connections sent there, by all frontends together.
    pub connections: u64,
}

/// The apiservers of one frontend: those that are used, and all others that are probed and could be.
pub(super) fn of(
    frontend: &DesiredFrontend,
    report: &Report,
    origins: &Origins,
    totals: &BTreeMap<Backend, u64>,
) -> Vec<BackendStatus> {
    let view = report.view.as_ref();
    let snapshot = view.map(|v| &v.snapshot);
    let listed =
        snapshot.iter().flat_map(|s| &s.frontends).find(|f| f.vip == frontend.vip).map(|f| &f.backends);
    let published = listed.filter(|_| snapshot.is_some_and(|s| s.is_published()));
    let mut all: BTreeSet<Backend> = frontend.backends.iter().chain(&frontend.dead).copied().collect();
    all.extend(listed.into_iter().flatten());
    let ports: BTreeSet<u16> = all.iter().map(Backend::port).collect();
    let family = Family::of(frontend.vip.ip());
    let related = |b: &&Backend| Family::of(b.ip()) == family && ports.contains(&b.port());
    all.extend(view.iter().flat_map(|v| v.backends.keys()).filter(related));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let status = |address: Backend| {
        let origin = origins.of(address);
        let health = view.and_then(|v| v.backends.get(&address));
        BackendStatus {
            address,
            state: health.map_or(State::Unknown, |h| h.state).label().to_owned(),
            since_seconds: health.map(|h| h.since.elapsed().as_secs()),
            failing: health.and_then(|h| h.failing).map(|reason: FailReason| reason.label().to_owned()),
            hold_down_seconds: health.and_then(|h| h.held_until).and_then(seconds_left),
            source: origin.map(|o| o.source),
            source_age_seconds: origin.map(|o| now.saturating_sub(o.since)),
            published: published.is_some_and(|p| p.contains(&address)),
            used: frontend.backends.contains(&address),
            round_trip_us: health.and_then(|h| h.round_trip).and_then(|t| u64::try_from(t.as_micros()).ok()),
            connections: totals.get(&address).copied().unwrap_or(0),
        }
    };
    all.into_iter().map(status).collect()
}

/// Whole seconds, rounded up; `None` when it is over.
fn seconds_left(until: Instant) -> Option<u64> {
    let left = until.checked_duration_since(Instant::now())?;
    Some(left.as_secs() + 1)
}

impl Display for BackendStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address = self.address.to_string();
        let since = self.since_seconds.map(super::duration).unwrap_or_default();
        let round_trip = self.round_trip_us.map(milliseconds).unwrap_or_default();
        write!(
            f,
            "{address:<28} {:<8} {since:<8} {round_trip:<8} {} connections",
            self.state, self.connections
        )?;
        if let Some(reason) = &self.failing {
            write!(f, ", probes fail: {reason}")?;
        }
        if let Some(seconds) = self.hold_down_seconds {
            write!(f, ", answers again, held down for {seconds}s after repeated failures")?;
        }
        let learnt = match (self.published, self.source) {
            (true, _) => "published",
            (false, Some(Source::Seed)) => "from a seed",
            (false, Some(Source::Saved)) => "from saved state",
            (false, Some(Source::Published) | None) => "no longer published, known",
        };
        write!(f, ", {learnt}")?;
        if let Some(age) = self.source_age_seconds {
            write!(f, " for {}", super::duration(age))?;
        }
        if !self.used && self.state == "up" {
            f.write_str(", spared by --balance")?;
        }
        Ok(())
    }
}

/// Three digits say enough.
fn milliseconds(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02}ms", micros / 1000, micros % 1000 / 10),
        10_000..100_000 => format!("{}.{}ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}ms", micros / 1000),
    }
}
