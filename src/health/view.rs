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
        let BackendHealth { state, since, published, answering, failing, answered, .. } = *health;
        let BackendHealth { ending, ask, silent_since, withheld, .. } = *health;
        let silent = silent_since.is_some();
        (state, since, published, answering, failing, answered, ending, ask, silent, withheld)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::{State, Withheld, sample};

    #[test]
    fn what_others_act_upon_is_news() {
        let now = Instant::now();
        let (backend, old) = (Backend::from(([192, 0, 2, 11], 6443)), sample(State::Healthy));
        let is_news = |new: BackendHealth| news(&[(backend, old)].into(), &[(backend, new)].into(), now);
        assert_eq!(is_news(old), None);
        assert_eq!(
            is_news(BackendHealth { ask: Some(now), ..old }),
            Some(now),
            "its clients are to be asked"
        );
        assert_eq!(is_news(BackendHealth { ending: true, ..old }), Some(now));
        assert_eq!(is_news(BackendHealth { withheld: Some(Withheld::NoWitness), ..old }), Some(now));
        assert_eq!(is_news(BackendHealth { round_trip: Some(Duration::from_micros(1400)), ..old }), None);
    }
}
