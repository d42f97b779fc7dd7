//! What conntrack must not remember once rules translate a virtual IP. Pure.
//!
//! The kernel asks nat chains for a flow's first packet only. A client that dialled before the rules stood sends the same
//! SYN again and again, and each one refreshes the entry of the first: it would go to the virtual IP itself until the client
//! gives up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::conntrack::entries::State;
use crate::model::desired::DesiredState;
use crate::model::types::{Backend, Vip};

/// Connections to one virtual IP that rules do not lead where they lead others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What their clients dialled.
    pub vip: Vip,
    /// Whom rules lead it to: what goes there is as it should be.
    pub led_to: BTreeSet<Backend>,
    /// Also those to the virtual IP itself that have ended: a client that dials from the same port meets that memory. Not
    /// while the forwarder has connections, whose last packets must find theirs.
    pub ended: bool,
}

impl Stale {
    /// All that concern `state`, with those that have ended.
    pub fn of(state: &DesiredState) -> Vec<Self> {
        Self::begun(state, None, true)
    }

    /// Those of virtual IPs and ports that `state` translates and `before` did not, or only where nobody on this node had
    /// the address.
    pub fn begun(state: &DesiredState, before: Option<&DesiredState>, ended: bool) -> Vec<Self> {
        let known: BTreeMap<Vip, bool> =
            before.iter().flat_map(|before| &before.frontends).map(|f| (f.vip, f.guard)).collect();
        let begins = |vip: Vip, guard: bool| known.get(&vip).is_none_or(|before| *before && !guard);
        let frontends = state.frontends.iter().filter(|f| begins(f.vip, f.guard));
        frontends.map(|f| Self { vip: f.vip, led_to: f.backends.iter().copied().collect(), ended }).collect()
    }

    /// Whether a connection that `answers` is one of these. Of those that another program led to a server of its own only
    /// what was never answered: the others may still be in use.
    pub(super) fn covers(&self, answers: Backend, state: State) -> bool {
        match state {
            State::Unanswered => !self.led_to.contains(&answers),
            State::Closing | State::Ended => self.ended && answers == self.vip,
            State::HalfOpen | State::Open | State::Other => false,
        }
    }
}

/// After how long conntrack is looked at again: a packet that was past the nat chains while the rules were exchanged enters
/// conntrack a moment after the first look.
const AGAIN: Duration = Duration::from_secs(1);

/// What is looked for a second time, and when.
#[derive(Default)]
pub(super) struct Again(VecDeque<(Instant, Vec<Stale>)>);

impl Again {
    /// It was looked for at `now`. What has ended by then is the memory of later connections.
    pub(super) fn looked(&mut self, stale: Vec<Stale>, now: Instant) {
        let unanswered = stale.into_iter().map(|stale| Stale { ended: false, ..stale });
        self.0.push_back((now + AGAIN, unanswered.collect()));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.front().map(|(due, _)| *due)
    }

    /// What is due at `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<Stale>> {
        self.due().filter(|due| *due <= now)?;
        self.0.pop_front().map(|(_, stale)| stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::{DesiredFrontend, SourcePolicy};
    use crate::model::snapshot::Affinity;

    fn state(frontends: &[(&str, bool)]) -> DesiredState {
        let frontend = |(vip, guard): &(&str, bool)| DesiredFrontend {
            vip: vip.parse().unwrap(),
            port_name: String::new(),
            affinity: Affinity::None,
            backends: vec!["192.0.2.11:6443".parse().unwrap()],
            dead: Vec::new(),
            guard: *guard,
        };
        DesiredState {
            service: "default/kubernetes".parse().unwrap(),
            frontends: frontends.iter().map(frontend).collect(),
            source: SourcePolicy::default(),
            forwarding: false,
        }
    }

    fn begun(now: &[(&str, bool)], before: &[(&str, bool)]) -> Vec<String> {
        let stale = Stale::begun(&state(now), Some(&state(before)), true);
        stale.into_iter().map(|stale| stale.vip.to_string()).collect()
    }

    #[test]
    fn whatever_begins_to_be_translated_counts_and_nothing_else() {
        let first = ("10.96.0.1:443", true);
        assert_eq!(Stale::of(&state(&[first])).len(), 1);
        assert_eq!(begun(&[first], &[]), ["10.96.0.1:443"]);
        assert_eq!(begun(&[first], &[first]), [""; 0]);
        assert_eq!(begun(&[first, ("10.96.0.1:8443", true)], &[first]), ["10.96.0.1:8443"], "a port");
        assert_eq!(begun(&[first, ("[fd00::1]:443", true)], &[first]), ["[fd00::1]:443"], "a family");
        assert_eq!(begun(&[("10.96.0.1:443", false)], &[first]), ["10.96.0.1:443"], "no guard any more");
        assert_eq!(begun(&[first], &[("10.96.0.1:443", false)]), [""; 0]);
    }

    #[test]
    fn what_was_never_answered_is_looked_for_twice() {
        let (mut again, now) = (Again::default(), Instant::now());
        assert!(again.due().is_none() && again.take(now).is_none());
        again.looked(Stale::of(&state(&[("10.96.0.1:443", true)])), now);
        assert_eq!(again.due(), Some(now + AGAIN));
        assert!(again.take(now).is_none(), "not at once");
        let second = again.take(now + AGAIN).unwrap();
        assert_eq!((second.len(), second[0].ended), (1, false));
        assert!(again.take(now + AGAIN).is_none(), "and not a third time");
    }

    #[test]
    fn only_what_was_never_answered_is_taken_from_other_servers() {
        let mut stale = Stale::of(&state(&[("10.96.0.1:443", true)])).remove(0);
        let (vip, ours, other) =
            (stale.vip, "192.0.2.11:6443".parse().unwrap(), "192.0.2.99:6443".parse().unwrap());
        for (answers, states) in [
            (vip, &[State::Unanswered, State::Closing, State::Ended][..]),
            (other, &[State::Unanswered]),
            (ours, &[]),
        ] {
            for state in [State::Unanswered, State::HalfOpen, State::Open, State::Closing, State::Ended] {
                assert_eq!(stale.covers(answers, state), states.contains(&state), "{answers} {state:?}");
            }
        }
        stale.ended = false;
        assert!(stale.covers(vip, State::Unanswered) && !stale.covers(vip, State::Ended));
    }
}
