//! Load balancing among usable backends: the policy of `--balance`. Pure.
//!
//! In: backends that are all as good by their state, their round trips, which of them are this node, and what was
//! chosen before. Out: those that share the new connections equally; never none of some.

use std::time::Duration;

use super::types::Backend;

/// `--balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// All share.
    #[default]
    Random,
    /// This node's own apiserver alone, while it may be used; else all share.
    LocalFirst,
    /// Those within reach of the shortest round trip share.
    Nearest,
}

impl Balance {
    /// Whether a round trip that changes may change the choice.
    pub fn goes_by_round_trips(self) -> bool {
        self == Self::Nearest
    }
}

/// A backend that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub backend: Backend,
    /// Its address is one of this node.
    pub local: bool,
    /// Smoothed round trip, once measured.
    pub round_trip: Option<Duration>,
}

/// Below this, differences are due to scheduling, not to the network: one data centre.
const SAME_PLACE: Duration = Duration::from_millis(1);

/// The candidates that get new connections, in their order. `before`: those selected until now, which are kept
/// until their round trip is clearly too long.
pub fn choose(policy: Balance, candidates: &[Candidate], before: &[Backend]) -> Vec<Backend> {
    let chosen: Vec<Backend> = match policy {
        Balance::Random => Vec::new(),
        Balance::LocalFirst => candidates.iter().filter(|c| c.local).map(|c| c.backend).collect(),
        Balance::Nearest => nearest(candidates, before),
    };
    if chosen.is_empty() { candidates.iter().map(|c| c.backend).collect() } else { chosen }
}

/// The tier of the nearest: up to twice the shortest round trip joins, beyond three times leaves.
fn nearest(candidates: &[Candidate], before: &[Backend]) -> Vec<Backend> {
    let Some(shortest) = candidates.iter().filter_map(|c| c.round_trip).min() else { return Vec::new() };
    let near = shortest.saturating_mul(2).max(shortest + SAME_PLACE);
    let far = shortest.saturating_mul(3).max(shortest + SAME_PLACE * 2);
    let within = |c: &&Candidate| {
        let limit = if before.contains(&c.backend) { far } else { near };
        c.round_trip.is_some_and(|round_trip| round_trip <= limit)
    };
    candidates.iter().filter(within).map(|c| c.backend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(last: u8, millis: u64) -> Candidate {
        let backend = Backend::from(([192, 0, 2, last], 6443));
        Candidate {
            backend,
            local: last == 13,
            round_trip: (millis > 0).then(|| Duration::from_millis(millis)),
        }
    }

    fn lasts(policy: Balance, candidates: &[Candidate], before: &[Candidate]) -> Vec<u8> {
        let before: Vec<Backend> = before.iter().map(|c| c.backend).collect();
        let last = |b: Backend| b.ip().to_string().rsplit('.').next().unwrap().parse().unwrap();
        choose(policy, candidates, &before).into_iter().map(last).collect()
    }

    #[test]
    fn random_shares_among_all() {
        let all = [candidate(11, 1), candidate(12, 90), candidate(13, 0)];
        assert_eq!(lasts(Balance::Random, &all, &[]), [11, 12, 13]);
    }

    #[test]
    fn local_first_is_alone_or_not_there() {
        assert_eq!(lasts(Balance::LocalFirst, &[candidate(11, 1), candidate(13, 1)], &[]), [13]);
        assert_eq!(lasts(Balance::LocalFirst, &[candidate(11, 1), candidate(12, 1)], &[]), [11, 12]);
    }

    #[test]
    fn nearest_shares_among_ties_with_hysteresis() {
        let (a, b, c) = (candidate(11, 10), candidate(12, 25), candidate(13, 90));
        assert_eq!(lasts(Balance::Nearest, &[a, b, c], &[]), [11]);
        assert_eq!(
            lasts(Balance::Nearest, &[a, b, c], &[a, b, c]),
            [11, 12],
            "it shared before: it stays longer"
        );
        assert_eq!(lasts(Balance::Nearest, &[candidate(11, 10), candidate(12, 15)], &[]), [11, 12]);
        assert_eq!(
            lasts(Balance::Nearest, &[candidate(11, 0), candidate(12, 0)], &[]),
            [11, 12],
            "none measured"
        );
    }

    proptest::proptest! {
        #[test]
        fn some_of_some_are_chosen(times in proptest::collection::vec(0u64..200, 1..9), policy in 0usize..3) {
            let policy = [Balance::Random, Balance::LocalFirst, Balance::Nearest][policy];
            let all: Vec<Candidate> = (11..).zip(times).map(|(last, ms)| candidate(last, ms)).collect();
            let chosen = lasts(policy, &all, &all[..1]);
            proptest::prop_assert!(!chosen.is_empty() && chosen.is_sorted());
        }
    }
}
