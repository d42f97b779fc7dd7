//! When the kernel's table is verified: another program touched it, notifications were lost, or it is time to.
//!
//! In: the notifications of nf_tables, in which [`Follower`] finds the transactions of others. Out: the suspicion that the
//! table is no longer what was committed, until it is settled.

use std::future::pending;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::decode::belongs;
use super::uapi::{SUBSYSTEM, generation, msg};
use crate::dataplane::{Culprit, Drift, DriftSource};
use crate::netlink::message::{Malformed, NFGENMSG_LEN, messages, number, text};
use crate::netlink::multicast::{Multicast, Notification};

/// `NFNLGRP_NFTABLES` of the kernel's `nfnetlink.h`.
pub const GROUP: u32 = 7;
/// A verification takes half a millisecond, or some 0.002 % of a core at this pace; what events reported was repaired long
/// before.
pub const CHECK: Duration = Duration::from_secs(30);

/// Listens to notifications, and keeps the time.
pub(super) struct TableWatch {
    events: Option<Multicast>,
    /// The socket failed: it is opened again at the next check.
    failed: bool,
    follower: Follower,
    check: Interval,
    suspicion: Option<Drift>,
}

impl TableWatch {
    /// Without events the periodic check goes on.
    pub fn open() -> Self {
        let events = Multicast::open(NETLINK_NETFILTER, [GROUP])
            .inspect_err(|error| {
                tracing::warn!(
                    event = %"nftables_events_unavailable", %error, interval_seconds = CHECK.as_secs(),
                    "Cannot watch nf_tables for changes, checking rules periodically"
                );
            })
            .ok();
        let mut check = interval_at(Instant::now() + CHECK, CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { events, failed: false, follower: Follower::default(), check, suspicion: None }
    }

    /// Resolves while there is a suspicion. `own`: the netlink port of the socket that our transactions come from.
    pub async fn wait_for_suspicion(&mut self, own: u32) -> Drift {
        while self.suspicion.is_none() {
            let heard = async {
                match &mut self.events {
                    Some(events) => events.receive().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                heard = heard => match heard {
                    Ok(heard) => record(heard, own, &mut self.follower, &mut self.suspicion),
                    Err(error) => {
                        tracing::debug!(
                            event = %"nftables_events_failed", %error,
                            "Failed to receive changes of nf_tables"
                        );
                        self.events = None;
                        self.failed = true;
                    }
                },
                _ = self.check.tick() => {
                    self.reopen();
                    self.suspicion = Some(Drift::new(DriftSource::Check));
                }
            }
        }
        // What else was reported is added to it.
        while let Some(Ok(heard)) = self.events.as_mut().and_then(Multicast::try_receive) {
            record(heard, own, &mut self.follower, &mut self.suspicion);
        }
        self.suspicion.clone().unwrap_or_else(|| Drift::new(DriftSource::Check))
    }

    fn reopen(&mut self) {
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

fn record(heard: Notification<'_>, own: u32, follower: &mut Follower, suspicion: &mut Option<Drift>) {
    let culprits = match heard {
        Notification::Datagram(datagram) => follower.take(datagram, own).ok(),
        Notification::Lost => None,
    };
    let Some(culprits) = culprits else {
        // A transaction of which only a part was received, or read, is not followed any further.
        *follower = Follower::default();
        suspicion.get_or_insert_with(|| Drift::new(DriftSource::Lost));
        return;
    };
    for culprit in culprits {
        suspicion.get_or_insert_with(|| Drift::new(DriftSource::Event)).blame(culprit);
    }
}

/// Follows the messages of transactions, each of which ends with one about the new generation.
#[derive(Debug, Default)]
pub struct Follower {
    touched: bool,
}

impl Follower {
    /// Takes in a datagram. `own`: the netlink port of the socket that our transactions come from.
    pub fn take(&mut self, datagram: &[u8], own: u32) -> Result<Vec<Culprit>, Malformed> {
        let mut culprits = Vec::new();
        for message in messages(datagram) {
            let message = message?;
            let kind = message.message_type();
            if kind >> 8 != SUBSYSTEM || message.port_number() == own {
                continue;
            }
            if kind & 0xff != msg::NEWGEN {
                self.touched = self.touched || belongs(message.payload())?.is_some();
            } else if std::mem::take(&mut self.touched) {
                let attrs = message.payload().get(NFGENMSG_LEN..).unwrap_or_default();
                let pid = number(attrs, generation::PROC_PID)?.unwrap_or(0);
                let name = text(attrs, generation::PROC_NAME).unwrap_or_default();
                culprits.push(Culprit { pid, name });
            }
        }
        Ok(culprits)
    }
}

#[cfg(test)]
mod tests;
