//! Whether the table is asked to belong to the daemon. A kernel that refused that once most likely does not know it, but the
//! refusal may have had another reason: it is asked again now and then. Pure.

use std::time::{Duration, Instant};

use crate::nftables::owner::Ownership;

/// A refused transaction costs half a millisecond, and who waits for the rules waits for it, too.
const AGAIN: Duration = Duration::from_secs(60 * 60);

/// What is wanted, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Owning {
    wanted: Ownership,
    refused: Option<Instant>,
    told: bool,
}

impl Owning {
    pub fn new(wanted: Ownership) -> Self {
        Self { wanted, refused: None, told: false }
    }

    /// As what the next replacement is to be made.
    pub fn next(&self, now: Instant) -> Ownership {
        match self.refused {
            Some(at) if now.saturating_duration_since(at) < AGAIN => Ownership::Plain,
            _ => self.wanted,
        }
    }

    /// A replacement was made as `asked`. Returns whether it is to be told that the table has no owner.
    pub fn made(&mut self, asked: Ownership, owned: bool, now: Instant) -> bool {
        if asked != Ownership::Owned {
            return false;
        }
        self.refused = (!owned).then_some(now);
        let is_news = !owned && !self.told;
        self.told = !owned;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_asked_again_each_hour() {
        let (mut owning, begin) = (Owning::new(Ownership::Owned), Instant::now());
        assert_eq!(owning.next(begin), Ownership::Owned);
        assert!(owning.made(Ownership::Owned, false, begin));
        assert_eq!(owning.next(begin + AGAIN / 2), Ownership::Plain);
        assert!(!owning.made(Ownership::Plain, false, begin + AGAIN / 2));
        assert_eq!(owning.next(begin + AGAIN), Ownership::Owned);
        assert!(!owning.made(Ownership::Owned, false, begin + AGAIN), "told twice");
        assert_eq!(owning.next(begin + AGAIN + AGAIN / 2), Ownership::Plain);
        assert!(!owning.made(Ownership::Owned, true, begin + 2 * AGAIN));
        assert_eq!(owning.next(begin + 2 * AGAIN), Ownership::Owned);
        assert!(owning.made(Ownership::Owned, false, begin + 3 * AGAIN), "that is news again");
    }

    #[test]
    fn what_was_not_wanted_is_not_asked_for() {
        let mut owning = Owning::new(Ownership::Plain);
        assert!(!owning.made(Ownership::Plain, false, Instant::now()));
        assert_eq!(owning.next(Instant::now() + 9 * AGAIN), Ownership::Plain);
    }
}
