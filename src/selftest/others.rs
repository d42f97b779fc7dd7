//! Whether connections of Pods and other hosts get further than this node. Pure.
//!
//! The daemon's own connection does not pass the hook `forward`, where a node's firewall may drop what comes from Pods. What
//! the table counts shows it: connections that come to a virtual IP, and those of them that go on to an apiserver.

/// What the table counted of one virtual IP. A packet that is dropped leaves nothing in conntrack, so a SYN that is sent
/// again counts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections of others than this node that came.
    pub came: u64,
    /// Those that left for an apiserver, or reached one on this node.
    pub went: u64,
}

/// What is known of the way of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OthersWay {
    /// None came, or too few to tell.
    #[default]
    Unseen,
    /// The latest went on.
    Open,
    /// So many came since the latest that went on, if any did.
    Blocked(u64),
}

impl OthersWay {
    /// The word in status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unseen => "unseen",
            Self::Open => "open",
            Self::Blocked(_) => "blocked",
        }
    }
}

/// A client that dials once, in vain, sends four SYNs within 7 s.
const ENOUGH: u64 = 4;

/// Compares what was counted with what was counted before.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    base: Option<Counts>,
    way: OthersWay,
}

impl Tracker {
    /// Takes in what is counted now; `None` if it cannot be read, or means nothing.
    pub(super) fn look(&mut self, counts: Option<Counts>) -> OthersWay {
        let (base, now) = match (self.base, counts) {
            (Some(base), Some(now)) if now.came >= base.came && now.went >= base.went => (base, now),
            // Counting begins, or began anew.
            (_, counts) => {
                *self = Self { base: counts, way: OthersWay::Unseen };
                return self.way;
            }
        };
        let came = now.came - base.came;
        if now.went > base.went {
            *self = Self { base: Some(now), way: OthersWay::Open };
        } else if came >= ENOUGH {
            self.way = OthersWay::Blocked(came);
        }
        self.way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(counted: &[Option<(u64, u64)>]) -> Vec<OthersWay> {
        let mut tracker = Tracker::default();
        counted.iter().map(|c| tracker.look(c.map(|(came, went)| Counts { came, went }))).collect()
    }

    #[test]
    fn several_that_came_and_none_that_went_on_are_blocked() {
        use OthersWay::{Blocked, Open, Unseen};
        let seen = [Some((100, 100)), Some((103, 100)), Some((104, 100)), Some((109, 100)), Some((109, 101))];
        assert_eq!(looks(&seen), [Unseen, Unseen, Blocked(4), Blocked(9), Open]);
        let again = [Some((0, 0)), Some((1, 1)), Some((2, 1)), Some((5, 1))];
        assert_eq!(looks(&again), [Unseen, Open, Open, Blocked(4)], "counted since the latest that went on");
    }

    #[test]
    fn counters_that_begin_anew_or_are_not_there_say_nothing() {
        use OthersWay::{Blocked, Unseen};
        assert_eq!(looks(&[Some((9, 9)), Some((5, 0)), Some((9, 0))]), [Unseen, Unseen, Blocked(4)]);
        assert_eq!(
            looks(&[Some((0, 0)), Some((8, 0)), None, Some((8, 0))]),
            [Unseen, Blocked(8), Unseen, Unseen]
        );
    }
}
