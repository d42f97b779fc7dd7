//! Which repairs are told one by one, and which are summed up: who fights with another program for hours must not fill the
//! log. Pure.
//!
//! In: the moment and the culprit of each repair. Out: whether it is told alone, and a sum once a minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many within [`PERIOD`] are told one by one: what a reload of a firewall or a rollout brings about.
const FEW: usize = 10;
/// Between two sums, and how long nothing must happen until a fight is over.
const PERIOD: Duration = Duration::from_secs(60);

/// How one repair is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// By itself.
    Alone,
    /// As the first of those that are summed up.
    First,
    /// With the next sum.
    Later,
}

/// What there is to say after a [`PERIOD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// So many more repairs; the latest known culprit.
    More { count: u64, by: Option<String> },
    /// There were no more; so many were summed up in all.
    Over { total: u64 },
}

/// Repairs of one kind of object.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// The latest that were told alone, at most [`FEW`].
    alone: VecDeque<Instant>,
    many: Option<Many>,
}

#[derive(Debug)]
struct Many {
    due: Instant,
    count: u64,
    total: u64,
    by: Option<String>,
}

impl Telling {
    /// A repair was made.
    pub fn note(&mut self, now: Instant, by: Option<&str>) -> Told {
        if let Some(many) = &mut self.many {
            many.count = many.count.saturating_add(1);
            if let Some(by) = by {
                many.by = Some(by.to_owned());
            }
            return Told::Later;
        }
        self.alone.retain(|at| now.saturating_duration_since(*at) < PERIOD);
        if self.alone.len() < FEW {
            self.alone.push_back(now);
            return Told::Alone;
        }
        self.many = Some(Many { due: now + PERIOD, count: 1, total: 0, by: by.map(str::to_owned) });
        Told::First
    }

    /// When the next sum is due, if any is.
    pub fn due(&self) -> Option<Instant> {
        self.many.as_ref().map(|many| many.due)
    }

    /// The sum, if it is due.
    pub fn sum(&mut self, now: Instant) -> Option<Sum> {
        let many = self.many.as_mut().filter(|many| many.due <= now)?;
        let total = many.total.saturating_add(many.count);
        if many.count == 0 {
            self.many = None;
            self.alone.clear();
            return Some(Sum::Over { total });
        }
        let (count, by) = (many.count, many.by.take());
        (many.due, many.count, many.total) = (now + PERIOD, 0, total);
        Some(Sum::More { count, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_told_alone_and_so_are_rare_ones_for_ever() {
        let (mut telling, mut now) = (Telling::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(telling.note(now, None), Told::Alone);
            now += PERIOD / 10;
        }
        assert_eq!((telling.due(), telling.sum(now)), (None, None));
    }

    #[test]
    fn many_are_summed_up_until_they_stop() {
        let (mut telling, begin) = (Telling::default(), Instant::now());
        let told: Vec<Told> = (0..FEW + 5).map(|_| telling.note(begin, Some("nft"))).collect();
        assert!(told[..FEW].iter().all(|told| *told == Told::Alone), "{told:?}");
        assert_eq!(told[FEW], Told::First);
        assert!(told[FEW + 1..].iter().all(|told| *told == Told::Later), "{told:?}");
        assert_eq!(telling.sum(begin + PERIOD / 2), None);
        let by = Some("nft".to_owned());
        assert_eq!(telling.sum(begin + PERIOD), Some(Sum::More { count: 5, by }));
        telling.note(begin + PERIOD, Some("ufw"));
        telling.note(begin + PERIOD, None);
        let by = Some("ufw".to_owned());
        assert_eq!(telling.sum(begin + 2 * PERIOD), Some(Sum::More { count: 2, by }));
        assert_eq!(telling.sum(begin + 3 * PERIOD), Some(Sum::Over { total: 7 }));
        assert_eq!((telling.due(), telling.sum(begin + 9 * PERIOD)), (None, None));
        assert_eq!(telling.note(begin + 9 * PERIOD, None), Told::Alone);
    }
}
