//! When the kernel's table is looked at: somebody else touched it, events were lost, or it is time to.
//!
//! In: nf_tables events. Out: the suspicion that the table is no longer what was committed, until it is settled.

use std::future::pending;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::dataplane::drift::{Drift, Found};
use crate::netlink::multicast::{Heard, Multicast};
use crate::nftables::events::{Follower, GROUP};

/// A look takes half a millisecond, or some 0.002 % of a core at this pace; what events told of was repaired long before.
pub const CHECK: Duration = Duration::from_secs(30);

/// Listens, and keeps the time.
pub(super) struct Watch {
    events: Option<Multicast>,
    /// The socket failed: it is opened again at the next look.
    failed: bool,
    follower: Follower,
    check: Interval,
    suspicion: Option<Drift>,
}

impl Watch {
    /// Without events there are still looks at the regular time.
    pub fn open() -> Self {
        let events = Multicast::open(NETLINK_NETFILTER, [GROUP])
            .inspect_err(|error| tracing::warn!(%error, check_seconds = CHECK.as_secs(), "cannot listen to changes of nf_tables: the rules are looked at from time to time only"))
            .ok();
        let mut check = interval_at(Instant::now() + CHECK, CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { events, failed: false, follower: Follower::default(), check, suspicion: None }
    }

    /// Resolves while there is a suspicion. `own`: the netlink port of the socket that our transactions come from.
    pub async fn suspect(&mut self, own: u32) -> Drift {
        while self.suspicion.is_none() {
            let heard = async {
                match &mut self.events {
                    Some(events) => events.hear().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                heard = heard => match heard {
                    Ok(heard) => note(heard, own, &mut self.follower, &mut self.suspicion),
                    Err(error) => {
                        tracing::debug!(%error, "listen to changes of nf_tables");
                        self.events = None;
                        self.failed = true;
                    }
                },
                _ = self.check.tick() => {
                    self.open_again();
                    self.suspicion = Some(Drift::new(Found::Check));
                }
            }
        }
        // What else was said is told together with it.
        while let Some(Ok(heard)) = self.events.as_mut().and_then(Multicast::heard) {
            note(heard, own, &mut self.follower, &mut self.suspicion);
        }
        self.suspicion.clone().unwrap_or_else(|| Drift::new(Found::Check))
    }

    fn open_again(&mut self) {
        if self.failed {
            self.events = Multicast::open(NETLINK_NETFILTER, [GROUP]).ok();
            self.failed = self.events.is_none();
            self.follower = Follower::default();
        }
    }

    /// The table is as it should be.
    pub fn settle(&mut self) {
        self.suspicion = None;
    }
}

fn note(heard: Heard<'_>, own: u32, follower: &mut Follower, suspicion: &mut Option<Drift>) {
    let culprits = match heard {
        Heard::Datagram(datagram) => follower.take(datagram, own).ok(),
        Heard::Lost => None,
    };
    let Some(culprits) = culprits else {
        // A transaction of which only a part was heard, or read, is not followed any further.
        *follower = Follower::default();
        suspicion.get_or_insert_with(|| Drift::new(Found::Lost));
        return;
    };
    for culprit in culprits {
        suspicion.get_or_insert_with(|| Drift::new(Found::Event)).blame(culprit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::events::Culprit;

    #[tokio::test(start_paused = true)]
    async fn without_events_it_is_time_for_a_look_now_and_then() {
        let mut watch = Watch { events: None, ..Watch::open() };
        let before = Instant::now();
        assert_eq!(watch.suspect(1).await.found, Found::Check);
        assert_eq!(before.elapsed(), CHECK);
        assert_eq!(watch.suspect(1).await.found, Found::Check, "the suspicion stays until it is settled");
        assert_eq!(before.elapsed(), CHECK);
        watch.settle();
        watch.suspect(1).await;
        assert_eq!(before.elapsed(), 2 * CHECK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_failed_is_opened_again() {
        let mut watch = Watch { events: None, failed: true, ..Watch::open() };
        watch.suspect(1).await;
        assert!(watch.events.is_some() && !watch.failed);
    }

    #[test]
    fn lost_events_are_a_suspicion_and_a_culprit_heard_of_later_is_added() {
        let (mut follower, mut suspicion) = (Follower::default(), None);
        note(Heard::Datagram(&[]), 1, &mut follower, &mut suspicion);
        assert_eq!(suspicion, None);
        note(Heard::Lost, 1, &mut follower, &mut suspicion);
        assert_eq!(suspicion.as_ref().map(|drift| drift.found), Some(Found::Lost));
        let culprit = Culprit { pid: 42, name: "nft".to_owned() };
        suspicion.iter_mut().for_each(|drift| drift.blame(culprit.clone()));
        assert_eq!(suspicion.and_then(|drift| drift.who()).as_deref(), Some("nft (pid 42)"));
    }
}
