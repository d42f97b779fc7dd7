//! The verdict over a failover, from the clients' histories. Pure.
//! In: timelines, and the API server of each connection. Out: counts and times relative to the fault, or an error that names
//! the first connections that should not have ended as they did.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use crate::sim::clients::timeline::{Connection, End, Kind, Reason, Timeline, monotonic_us};

/// Connections that an error shows.
const SHOWN: usize = 8;

/// What a crowd saw.
#[derive(Debug)]
pub struct Outcome {
    timelines: Vec<(String, Timeline)>,
    redirected_to: BTreeMap<SocketAddr, SocketAddr>,
    moments: Moments,
}

/// When the fault happened, on the monotonic clock: it was not there before the first of these, and is from the second
/// on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) fault_us: u64,
    pub(super) complete_us: u64,
}

impl Moments {
    pub(super) fn now() -> Self {
        let now = monotonic_us();
        Self { fault_us: now, complete_us: now }
    }
}

/// What became of the long-lived connections to some API servers. Times are milliseconds after the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// How many there were.
    pub flows: usize,
    /// How many of them ended after the fault, at their client.
    pub notified: usize,
    /// The first end.
    pub first_ms: u64,
    /// The last.
    pub last_ms: u64,
}

impl Outcome {
    pub(super) fn new(
        timelines: Vec<(String, Timeline)>,
        redirected_to: BTreeMap<SocketAddr, SocketAddr>,
        moments: Moments,
    ) -> Self {
        Self { timelines, redirected_to, moments }
    }

    /// The histories, with where their clients ran.
    pub fn timelines(&self) -> impl Iterator<Item = (&str, &Timeline)> {
        self.timelines.iter().map(|(name, timeline)| (name.as_str(), timeline))
    }

    /// The moment of the fault on a timeline.
    pub fn fault_ms(&self, timeline: &Timeline) -> u64 {
        timeline.at_ms(self.moments.fault_us)
    }

    /// Long-lived connections of one kind, or of any, to these addresses: how many were reset or closed, so that their clients know,
    /// and when.
    pub fn notified(&self, failed_servers: &[IpAddr], kind: Option<Kind>) -> Notified {
        let mut found = Notified { first_ms: u64::MAX, ..Notified::default() };
        for (_, timeline) in &self.timelines {
            let fault = self.fault_ms(timeline);
            let of_kind = timeline.kept().filter(|c| kind.is_none_or(|kind| c.kind == kind));
            for connection in of_kind.filter(|c| self.is_redirected_to(c, failed_servers)) {
                found.flows += 1;
                if let Some(after) = connection.ended_ms.and_then(|end| end.checked_sub(fault)) {
                    found.notified += 1;
                    found.first_ms = found.first_ms.min(after);
                    found.last_ms = found.last_ms.max(after);
                }
            }
        }
        if found.notified == 0 {
            found.first_ms = 0;
        }
        found
    }

    /// [`Outcome::notified`] of each kind, in words.
    pub fn by_kind(&self, failed_servers: &[IpAddr]) -> String {
        let kinds =
            [Kind::Idle, Kind::Watch, Kind::HalfClosed, Kind::Upload, Kind::Download, Kind::Pipelined];
        let words = kinds.map(|kind| {
            let Notified { flows, notified, first_ms, last_ms } = self.notified(failed_servers, Some(kind));
            format!("{kind:?} {notified} of {flows} notified, {first_ms} to {last_ms} ms after the fault")
        });
        words.join("; ")
    }

    /// Fails unless long-lived connections are redirected to these addresses, and all of them ended after the fault.
    pub fn expect_notified(&self, failed_servers: &[IpAddr]) -> Result<Notified> {
        let found = self.notified(failed_servers, None);
        ensure!(found.flows > 0, "no connection was redirected to {failed_servers:?}");
        ensure!(
            found.notified == found.flows,
            "not every client of {failed_servers:?} was notified: {found:?}\n{self}"
        );
        Ok(found)
    }

    /// Long-lived connections to anything but these addresses that ended.
    pub fn reset_of_others(&self, failed_servers: &[IpAddr]) -> Vec<&Connection> {
        let kept = self.timelines.iter().flat_map(|(_, timeline)| timeline.kept());
        kept.filter(|c| c.failed() && !self.is_redirected_to(c, failed_servers)).collect()
    }

    /// Fails if a long-lived connection to anything but these addresses ended.
    pub fn expect_uncut(&self, failed_servers: &[IpAddr]) -> Result<()> {
        let reset = self.reset_of_others(failed_servers);
        ensure!(
            reset.is_empty(),
            "{} connections to healthy API servers were reset\n{}",
            reset.len(),
            shown(&reset)
        );
        let flows = self.timelines.iter().flat_map(|(_, timeline)| timeline.kept());
        let unknown: Vec<_> =
            flows.filter(|c| c.local.is_none_or(|l| !self.redirected_to.contains_key(&l))).collect();
        ensure!(unknown.is_empty(), "the API server of these is not known\n{}", shown(&unknown));
        Ok(())
    }

    /// New connections that failed, of those that began in `from..until` milliseconds after the fault.
    pub fn failures(&self, from: u64, until: u64) -> Vec<&Connection> {
        let of = |timeline: &'_ Timeline| -> u64 { self.fault_ms(timeline) };
        self.timelines.iter().flat_map(|(_, t)| t.failures(of(t), from, until)).collect()
    }

    /// Fails if a new connection that began so long after the fault, or later, failed. One that began before the fault
    /// was complete, and came about, is no new one: its API server may have failed since.
    pub fn expect_served(&self, from: u64) -> Result<()> {
        let begun = self.timelines.iter().map(|(_, timeline)| {
            let fault = self.fault_ms(timeline);
            timeline.fresh().filter(|c| c.started_ms >= fault + from).count()
        });
        ensure!(begun.sum::<usize>() > 0, "no connection began later than {from} ms after the fault");
        let all = self.timelines.iter().flat_map(|(_, timeline)| {
            let complete = timeline.at_ms(self.moments.complete_us);
            let failed = timeline.failures(self.fault_ms(timeline), from, u64::MAX).into_iter();
            failed.filter(move |c| c.connected_ms.is_none() || c.started_ms > complete)
        });
        let failed: Vec<_> = all.collect();
        ensure!(failed.is_empty(), "{} new connections failed\n{}", failed.len(), shown(&failed));
        Ok(())
    }

    /// Fails if any new connection was refused or reset, or waited in vain for longer than its client does. A network
    /// that says `unreachable` says so of itself.
    pub fn expect_nothing_refused(&self) -> Result<()> {
        let all = self.timelines.iter().flat_map(|(_, timeline)| timeline.fresh());
        let ours = |c: &&Connection| c.failed() && c.end != Some(End::Failed(Reason::Unreachable));
        let failed: Vec<_> = all.filter(ours).collect();
        ensure!(failed.is_empty(), "{} connections failed\n{}", failed.len(), shown(&failed));
        Ok(())
    }

    /// The longest that a fresh connection took which ended after the fault.
    pub fn longest_ms(&self) -> u64 {
        self.timelines.iter().map(|(_, t)| t.longest_ms(self.fault_ms(t))).max().unwrap_or(0)
    }

    /// How many fresh connections there were.
    pub fn attempts(&self) -> usize {
        self.timelines.iter().map(|(_, timeline)| timeline.fresh().count()).sum()
    }

    fn is_redirected_to(&self, connection: &Connection, failed_servers: &[IpAddr]) -> bool {
        let backend = connection.local.and_then(|local| self.redirected_to.get(&local));
        backend.is_some_and(|backend| failed_servers.contains(&backend.ip()))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, timeline) in &self.timelines {
            let fault = self.fault_ms(timeline);
            let failed = timeline.failures(fault, 0, u64::MAX);
            writeln!(
                f,
                "{name}: {} fresh connections, {} of the new ones failed, the longest took {} ms",
                timeline.fresh().count(),
                failed.len(),
                timeline.longest_ms(fault)
            )?;
            for (count, connection) in failed.iter().enumerate().take(SHOWN) {
                writeln!(
                    f,
                    "  failure {count} at fault {:+} ms: {}",
                    signed(connection, fault),
                    connection.detail
                )?;
            }
        }
        Ok(())
    }
}

fn signed(connection: &Connection, fault: u64) -> i64 {
    connection.started_ms.cast_signed() - fault.cast_signed()
}

fn shown(connections: &[&Connection]) -> String {
    connections.iter().take(SHOWN).map(|connection| format!("  {connection:?}\n")).collect()
}
