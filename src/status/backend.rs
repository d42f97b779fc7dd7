//! One apiserver in `apivip status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::model::desired::DesiredFrontend;
use crate::model::health::{FailReason, HealthState};
use crate::model::report::Report;
use crate::model::sources::{EndpointSource, Origins};
use crate::model::traffic::Traffic;
use crate::model::types::{Backend, Family};
use crate::process::clock::unix_now;

/// One apiserver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: Backend,
    /// `healthy`, `late`, `draining`, `suspect`, `failed`, or `unknown` if it has not been probed.
    pub state: String,
    /// Seconds since it entered that state.
    pub since_seconds: Option<u64>,
    /// Why its latest probe failed, while it does.
    pub failing: Option<String>,
    /// Why its established connections are left alone, where it has been silent for longer than `--silence-timeout`.
    pub withheld: Option<String>,
    /// Seconds for which it must go on answering before it is healthy again, after it failed repeatedly.
    pub hold_down_seconds: Option<u64>,
    /// As whom it took the daemon in its latest answer to `/readyz`: `authenticated`, `anonymous` where there are no credentials to
    /// show, or `refused` where it does not know them.
    pub caller: Option<String>,
    /// Whether that answer said if it is ready; 401 and 403 do not, and it is taken for ready.
    pub readiness_known: Option<bool>,
    /// Where it was learnt: `published`, `seed` or `saved`.
    pub source: Option<EndpointSource>,
    /// Seconds since that source first named it.
    pub source_age_seconds: Option<u64>,
    /// Whether the API publishes it.
    pub published: bool,
    /// Whether it shares new connections.
    pub used: bool,
    /// Of new connections to this virtual IP it gets so much, from 0 to 1.
    pub share: f64,
    /// Smoothed round trip of probes, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Connections sent there, by all frontends together.
    pub connections: u64,
    /// Connections through rules to this virtual IP and there that are open now; `None` if conntrack does not say.
    pub open: Option<u64>,
    /// Bytes that clients have sent over them; `None` if the kernel does not count.
    pub bytes_up: Option<u64>,
    /// Bytes that came back.
    pub bytes_down: Option<u64>,
}

/// The apiservers of one frontend: those that are used, and all others that are probed and could be.
pub(super) fn of(
    frontend: &DesiredFrontend,
    report: &Report,
    origins: &Origins,
    totals: &BTreeMap<Backend, u64>,
    traffic: Option<&Traffic>,
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
    let now = unix_now();
    // At most 64 share.
    let share = u32::try_from(frontend.backends.len()).map_or(0.0, |n| 1.0 / f64::from(n.max(1)));
    let status = |address: Backend| {
        let origin = origins.of(address);
        let health = view.and_then(|v| v.backends.get(&address));
        let open = traffic.map(|traffic| traffic.of(frontend.vip, address));
        let bytes = open.and_then(|open| open.bytes);
        BackendStatus {
            address,
            state: health.map_or(HealthState::Unknown, |h| h.state).label().to_owned(),
            since_seconds: health.map(|h| h.since.elapsed().as_secs()),
            failing: health.and_then(|h| h.failure).map(|reason: FailReason| reason.label().to_owned()),
            withheld: health.and_then(|h| h.termination_blocked).map(|why| why.to_string()),
            hold_down_seconds: health.and_then(|h| h.hold_down_until).and_then(seconds_left),
            caller: health.and_then(|h| h.readyz).map(|readyz| readyz.auth.label().to_owned()),
            readiness_known: health.and_then(|h| h.readyz).map(|readyz| readyz.readiness_known),
            source: origin.map(|o| o.source),
            source_age_seconds: origin.map(|o| now.saturating_sub(o.since)),
            published: published.is_some_and(|p| p.contains(&address)),
            used: frontend.backends.contains(&address),
            share: if frontend.backends.contains(&address) { share } else { 0.0 },
            round_trip_us: health.and_then(|h| h.round_trip).and_then(|t| u64::try_from(t.as_micros()).ok()),
            connections: totals.get(&address).copied().unwrap_or(0),
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
