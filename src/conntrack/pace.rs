//! How many nudges may go out: over all clients a rate, for each client what its kernel answers. Pure.
//!
//! In: the time, and how many of a client's nudged flows ended. Out: how many may be sent now.

use std::time::{Duration, Instant};

/// A bucket that holds one second's worth of nudges and refills at the rate: 5,000 flows go at once, 50,000 take 9 s.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. A rate of 0 counts as 1.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate.max(1));
        Self { rate, tokens: rate, filled: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// Gives back one that was not used.
    pub(super) fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.rate);
    }

    /// When the next one will be there.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0) / self.rate;
        now + Duration::from_secs_f64(missing)
    }
}

/// Never fewer, so that a client that answers nothing does not hold its round up for long.
const LEAST: u32 = 100;

/// How many flows of one client host may be nudged in a round.
///
/// It starts without a limit. A host that has one itself (`net.ipv4.tcp_challenge_ack_limit`, about 1,000 answers a
/// second before 6.1) answers some, and is asked for half as many more in the next round: so its limit, which its
/// kernel varies at random, is used up, and most of the flows that it would not answer are not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientPace {
    limit: Option<u32>,
    nudged: u32,
    /// In the round before: one that falls into a second whose answers are used up says nothing of the next.
    ended_before: u32,
    answered: bool,
}

impl ClientPace {
    /// Counts one nudge of this round, if the limit allows it.
    pub(super) fn take(&mut self) -> bool {
        let allowed = self.limit.is_none_or(|limit| self.nudged < limit);
        self.nudged += u32::from(allowed);
        allowed
    }

    /// Whether any of its flows ended by a nudge.
    pub(super) fn has_answered(self) -> bool {
        self.answered
    }

    /// Ends the round: `open` of the nudged flows did not end.
    pub(super) fn end_round(&mut self, open: u32) {
        let ended = self.nudged.saturating_sub(open);
        self.answered |= ended > 0;
        if self.nudged >= LEAST {
            let most_ended = u64::from(ended) * 10 >= u64::from(self.nudged) * 9;
            self.limit = match self.limit {
                limit if most_ended => limit.map(|limit| limit.saturating_mul(2)),
                _ => {
                    let most = ended.max(self.ended_before);
                    Some(most.saturating_add(most / 2).max(LEAST))
                }
            };
            self.ended_before = ended;
        }
        self.nudged = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_s_worth_goes_at_once_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        assert_eq!((0..200).filter(|_| bucket.take(start)).count(), 100);
        assert!(bucket.next(start) > start);
        let later = start + Duration::from_millis(501);
        assert_eq!((0..200).filter(|_| bucket.take(later)).count(), 50);
        bucket.put_back();
        assert!(bucket.take(later));
    }

    #[test]
    fn a_host_that_answers_few_is_asked_less_and_then_more() {
        let mut pace = ClientPace::default();
        assert_eq!((0..5000).filter(|_| pace.take()).count(), 5000);
        pace.end_round(4000);
        assert_eq!((0..5000).filter(|_| pace.take()).count(), 1500);
        pace.end_round(0);
        assert_eq!((0..5000).filter(|_| pace.take()).count(), 3000);
        pace.end_round(3000);
        assert_eq!((0..5000).filter(|_| pace.take()).count(), 2250);
        pace.end_round(2250);
        assert_eq!((0..5000).filter(|_| pace.take()).count(), 100);
        assert!(pace.has_answered());
    }

    #[test]
    fn a_handful_that_stays_open_says_nothing() {
        let mut pace = ClientPace::default();
        assert!((0..50).all(|_| pace.take()));
        pace.end_round(50);
        assert_eq!(pace, ClientPace::default());
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_over_any_time(rate in 1u32..10_000, steps in prop::collection::vec(0u64..50, 1..100)) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(rate, now);
            let mut sent = 0u32;
            for step in steps {
                now += Duration::from_millis(step);
                while bucket.take(now) {
                    sent += 1;
                }
            }
            let allowed = f64::from(rate) * (1.0 + (now - start).as_secs_f64());
            prop_assert!(f64::from(sent) <= allowed + 1.0);
        }

        #[test]
        fn a_limit_never_falls_below_the_least(rounds in prop::collection::vec(0u32..10_000, 0..40)) {
            let mut pace = ClientPace::default();
            for open in rounds {
                while pace.nudged < 2000 && pace.take() {}
                prop_assert!(pace.nudged >= LEAST);
                let open = open.min(pace.nudged);
                pace.end_round(open);
            }
        }
    }
}
