//! Which change of health is worth a new view. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::health::BackendHealth;
use crate::model::types::Backend;

/// A round trip that moved by less, or by less than a fifth, is the same.
const ROUND_TRIP: Duration = Duration::from_micros(500);

/// When the news was noticed that tells `new` from `old`; `None` if there is none.
pub(super) fn news(
    old: &BTreeMap<Backend, BackendHealth>,
    new: &BTreeMap<Backend, BackendHealth>,
    now: Instant,
) -> Option<Instant> {
    let gone = old.keys().any(|backend| !new.contains_key(backend)).then_some(now);
    let changed = new.iter().filter_map(|(backend, health)| match old.get(backend) {
        Some(before) if before.state != health.state => Some(health.noticed),
        Some(before) if is_alike(before, health) => None,
        _ => Some(now),
    });
    changed.chain(gone).min()
}

fn is_alike(old: &BackendHealth, new: &BackendHealth) -> bool {
    let settled = |health: &BackendHealth| {
        let BackendHealth { state, since, published, answering, ending, failing, answered, .. } = *health;
        (state, since, published, answering, ending, failing, answered)
    };
    settled(old) == settled(new) && is_near(old.round_trip, new.round_trip)
}

fn is_near(old: Option<Duration>, new: Option<Duration>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let moved = old.abs_diff(new);
            moved <= ROUND_TRIP || moved * 5 <= old
        }
        (None, None) => true,
        _ => false,
    }
}
