//! Handshakes of fresh probes that are not finished: at most two, of which the oldest stays open for a late answer.
//!
//! In: when each began, what is known of it. Out: which are overdue, when there is room for another. It owns the flags and
//! handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, AbortRegistration};
use tokio::time::Instant;

/// Further ones would learn nothing sooner, and a process that stands still finds each of them when it goes on.
const UNFINISHED: usize = 2;
/// One whose TCP came about waits for a process that stands still, and its answer comes over it. Another one is worth its price
/// only in case the host is another one by now.
const CONNECTED: Duration = Duration::from_secs(10);
/// Whether TCP came about is told again so often: the first SYN may have been lost.
const AGAIN: Duration = Duration::from_secs(1);

/// One of them.
struct Dial {
    began: Instant,
    overdue: Instant,
    tell: Instant,
    connected: Arc<AtomicBool>,
    abort: AbortHandle,
}

impl Dial {
    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// When there is room for another one: for one that a decision waits for, and for one that comes by its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) hasty: Instant,
    pub(super) patient: Instant,
}

/// See the module. The oldest comes first.
#[derive(Default)]
pub(super) struct Dials(Vec<Dial>);

impl Dials {
    /// When there is room for another one, at the cost of the younger one if need be. `now` at the earliest.
    pub(super) fn free_at(&self, now: Instant) -> Free {
        match self.0.get(UNFINISHED - 1) {
            None => Free { hasty: now, patient: now },
            Some(young) if young.is_connected() => {
                Free { hasty: young.overdue, patient: young.began + CONNECTED }
            }
            Some(young) => Free { hasty: young.overdue, patient: young.overdue },
        }
    }

    /// The younger one gives way to another one. Returns when it began, and whether TCP came about.
    pub(super) fn give_way(&mut self) -> Option<(Instant, bool)> {
        if self.0.len() < UNFINISHED {
            return None;
        }
        let young = self.0.pop()?;
        young.abort.abort();
        Some((young.began, young.is_connected()))
    }

    /// One begins. Returns where to note that TCP came about, and what ends it.
    pub(super) fn begin(&mut self, now: Instant, limit: Duration) -> (Arc<AtomicBool>, AbortRegistration) {
        let (abort, registration) = AbortHandle::new_pair();
        let connected = Arc::new(AtomicBool::new(false));
        let overdue = now + limit;
        self.0.push(Dial { began: now, overdue, tell: overdue, connected: Arc::clone(&connected), abort });
        (connected, registration)
    }

    /// One ended by itself.
    pub(super) fn ended(&mut self, began: Instant) {
        self.0.retain(|dial| dial.began != began);
    }

    /// When the next one has to be told of.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.0.iter().map(|dial| dial.tell).min()
    }

    /// Those that are overdue, and whether TCP came about; each second again.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(Instant, bool)> {
        let due = self.0.iter_mut().filter(|dial| dial.tell <= now);
        due.map(|dial| {
            dial.tell = now + AGAIN;
            (dial.began, dial.is_connected())
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_the_most_and_the_oldest_stays() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let limit = Duration::from_millis(300);
        let mut dials = Dials::default();
        let free = |dials: &Dials, now| {
            let Free { hasty, patient } = dials.free_at(now);
            (hasty, patient)
        };
        assert_eq!((free(&dials, begin), dials.give_way()), ((begin, begin), None));
        dials.begin(begin, limit);
        assert_eq!((free(&dials, at(50)), dials.give_way()), ((at(50), at(50)), None));
        let (connected, _) = dials.begin(at(50), limit);
        assert_eq!(free(&dials, at(60)), (at(350), at(350)), "once the younger one is overdue");
        assert_eq!(dials.overdue(at(299)), []);
        assert_eq!(dials.overdue(at(300)), [(begin, false)]);
        assert_eq!(dials.next_overdue(), Some(at(350)));
        connected.store(true, Ordering::Relaxed);
        assert_eq!(free(&dials, at(60)), (at(350), at(10_050)), "where TCP came about, there is time");
        assert_eq!(dials.overdue(at(1300)), [(begin, false), (at(50), true)], "each second again");
        assert_eq!(dials.give_way(), Some((at(50), true)));
        dials.begin(at(1300), limit);
        dials.ended(begin);
        assert_eq!((free(&dials, at(1400)), dials.give_way()), ((at(1400), at(1400)), None));
    }
}
