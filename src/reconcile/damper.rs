//! How soon after a repair the next one may follow: at once, unless there were many, so that a fight with another program
//! is no busy loop. Pure.

use std::time::{Duration, Instant};

/// So many repairs follow at once. A reload of a firewall is one, or a few.
const FREE: u32 = 10;
/// One is forgotten for each such time without any: who comes no more often is no fight, and a commit a second costs nothing.
const FORGET: Duration = Duration::from_secs(1);
/// The first wait, doubled with each further repair.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// New connections have no way for so long at most, whoever else insists.
const WAIT_DOUBLINGS: u32 = 5;

/// Remembers repairs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damper {
    strikes: u32,
    last: Option<Instant>,
    wait: Duration,
}

impl Damper {
    /// A repair was made.
    pub fn note(&mut self, now: Instant) {
        let quiet = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let forgotten = u32::try_from(quiet.as_nanos() / FORGET.as_nanos()).unwrap_or(u32::MAX);
        self.strikes = self.strikes.saturating_sub(forgotten).saturating_add(1);
        self.last = Some(now);
        self.wait = match self.strikes.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(more) => WAIT_MIN * 2u32.pow(more.min(WAIT_DOUBLINGS)),
        };
    }

    /// How long the next one has to wait still.
    pub fn wait(&self, now: Instant) -> Duration {
        let end = self.last.map(|last| last + self.wait);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_follow_at_once_and_a_fight_slows_down() {
        let (mut damper, mut now) = (Damper::default(), Instant::now());
        for _ in 0..FREE {
            damper.note(now);
            assert_eq!(damper.wait(now), Duration::ZERO);
        }
        let mut waits = Vec::new();
        for _ in 0..9 {
            damper.note(now);
            waits.push(damper.wait(now).as_millis());
            now += damper.wait(now);
        }
        // Longer waits are forgotten in part.
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 1600, 1600, 1600]);
    }

    #[test]
    fn who_changes_something_each_second_is_answered_at_once() {
        let (mut damper, mut now) = (Damper::default(), Instant::now());
        for _ in 0..1000 {
            damper.note(now);
            assert_eq!(damper.wait(now), Duration::ZERO);
            now += FORGET;
        }
    }

    #[test]
    fn a_fight_is_forgotten() {
        let (mut damper, mut now) = (Damper::default(), Instant::now());
        (0..30).for_each(|_| damper.note(now));
        assert!(damper.wait(now) > Duration::from_secs(1));
        now += Duration::from_secs(600);
        damper.note(now);
        assert_eq!(damper.wait(now), Duration::ZERO);
    }
}
