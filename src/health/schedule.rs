//! When the next ping, `/readyz` request, keepalive check or fresh probe of one backend is due.
//!
//! In: the directive, what the kept-open connection is doing, what was started when. Out: a plan. Chance is an argument: a
//! number from 0 up to, not including, 1.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::ConnectionState;
use super::detector::{Directive, Pace};
use super::probe::NextSlot;
use super::socket::KEEPALIVE;

/// Between two starts of a burst.
const BURST_INTERVAL: Duration = Duration::from_millis(50);
/// Between two starts while connections are refused or reset.
const RUSH_INTERVAL: Duration = Duration::from_millis(10);
/// Between two pings to a backend that is in use. A ping that stays unanswered and the burst that follows take 0.65 s: whoever
/// opened a connection in the moment in which a cable was cut sends its SYN again after 1 s (RFC 6298), and must find another
/// backend then.
const IN_USE_INTERVAL: Duration = Duration::from_millis(200);
/// The minimum between two keepalive checks.
const MIN_KEEPALIVE_CHECK: Duration = Duration::from_millis(100);
/// The longest pause between two tries to open a connection that carries pings only.
const PING_CONNECTION_RETRY_MAX: Duration = Duration::from_secs(30);

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `OPTIONS *` on the kept-open connection.
    Ping,
    /// `/readyz` on the kept-open connection.
    Readyz,
    /// A fresh probe.
    FreshProbe,
    /// Whether the host acknowledges the kernel's keepalive.
    CheckKeepalive,
    /// A connection that carries pings only.
    OpenPingConnection,
}

/// What is due when; times in the past are due now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    ping: Option<Instant>,
    readyz: Option<Instant>,
    fresh: Option<Instant>,
    keepalive_check: Option<Instant>,
    ping_connection: Option<Instant>,
}

impl Plan {
    /// What comes next.
    pub(super) fn next(&self) -> Option<(Instant, Action)> {
        let readyz = self.readyz.map(|at| (at, Action::Readyz));
        let fresh = self.fresh.map(|at| (at, Action::FreshProbe));
        let ping = self.ping.map(|at| (at, Action::Ping));
        let keepalive_check = self.keepalive_check.map(|at| (at, Action::CheckKeepalive));
        let ping_connection = self.ping_connection.map(|at| (at, Action::OpenPingConnection));
        readyz
            .into_iter()
            .chain(fresh)
            .chain(ping)
            .chain(keepalive_check)
            .chain(ping_connection)
            .min_by_key(|(at, _)| *at)
    }
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    /// Between two fresh probes where no connection is kept, or of a backend that is Down.
    pub(super) probe: Duration,
    /// Between two requests for `/readyz` of a backend without signs of failure.
    pub(super) readyz: Duration,
}

/// The times of one backend.
#[derive(Clone, Debug)]
pub(super) struct ProbeSchedule {
    ticker: PingTicker,
    intervals: Intervals,
    ping: Instant,
    pinged: Option<Instant>,
    keepalive_check: Instant,
    readyz: Instant,
    /// The next probe of a backend that is probed at each interval.
    regular: Instant,
    ping_connection: Instant,
    fresh: Option<Instant>,
    probed: Option<Instant>,
}

impl ProbeSchedule {
    /// Nothing was started yet: the first probe is due `now`. The ticker is that of pings.
    pub(super) fn new(ticker: PingTicker, intervals: Intervals, now: Instant) -> Self {
        Self {
            ticker,
            intervals,
            ping: now,
            pinged: None,
            keepalive_check: now,
            readyz: now,
            regular: now,
            ping_connection: now,
            fresh: None,
            probed: None,
        }
    }

    /// A connection is kept from `now` on. `/readyz` is requested at a random point of the interval, and its pings
    /// begin with this node's next tick: nodes that all connected when the API server came up must not probe in step.
    /// The host may take `limit` to acknowledge a keepalive. Over an `unasked` one there was no request:
    /// kube-apiserver waits 32 s for the first.
    pub(super) fn kept(&mut self, now: Instant, limit: Duration, unasked: bool, chance: f64) {
        self.ping = if unasked { now } else { self.ticker.after(now, chance) };
        self.readyz = now + self.intervals.readyz.mul_f64(chance);
        self.keepalive_check = now + KEEPALIVE + limit;
    }

    /// Connections were just opened to this backend: whether its process answers is worth a ping now, if it was not pinged
    /// a moment ago.
    pub(super) fn in_use(&mut self, now: Instant) {
        let rested = self.pinged.map_or(now, |pinged| pinged + IN_USE_INTERVAL);
        self.ping = self.ping.min(rested.max(now));
    }

    /// The last segment arrived so long ago: the next check is when another one should have arrived.
    pub(super) fn keepalive_checked(&mut self, now: Instant, heard: Duration, limit: Duration) {
        self.keepalive_check = now + (KEEPALIVE + limit).saturating_sub(heard).max(MIN_KEEPALIVE_CHECK);
    }

    /// The kept connection was lost. Possible witnesses are probed first; the burst that follows will not wait
    /// for the next regular probe.
    pub(super) fn lost(&mut self, now: Instant, chance: f64) {
        self.regular = now + jittered(self.intervals.probe, chance);
    }

    /// It was lost once more, which is no sign of failure any more: a single probe tells, at once unless there
    /// was one within the interval. Later, one that flaps in step with the probes would be missed.
    pub(super) fn lost_repeatedly(&mut self, now: Instant, chance: f64) {
        let rested = self.probed.map_or(now, |probed| probed + jittered(self.intervals.probe, chance));
        self.regular = rested.max(now);
    }

    /// A fresh probe takes the place of the request over the kept connection.
    pub(super) fn probe_now(&mut self, now: Instant) {
        self.regular = now;
    }

    /// The next try to open a connection that carries pings only, after so many that ended soon.
    pub(super) fn ping_connection_retry(&mut self, now: Instant, ended_soon: u32, chance: f64) {
        let pause =
            self.intervals.probe.saturating_mul(1 << ended_soon.min(16)).min(PING_CONNECTION_RETRY_MAX);
        self.ping_connection = now + jittered(pause, chance);
    }

    /// `action` was started; over what is known of the kept connection.
    pub(super) fn started(
        &mut self,
        action: Action,
        connection: Option<ConnectionState>,
        now: Instant,
        chance: f64,
    ) {
        match action {
            // At the tick, or late: the next one is the one after that.
            Action::Ping => {
                self.pinged = Some(now);
                self.ping = self.ticker.after(now + self.ticker.interval() / 2, chance);
            }
            Action::Readyz => self.readyz = now + jittered(self.intervals.readyz, chance),
            Action::FreshProbe => {
                self.fresh = Some(now);
                if connection.is_some_and(|connection| connection.ping_only) {
                    self.readyz = now + jittered(self.intervals.readyz, chance);
                }
            }
            Action::CheckKeepalive | Action::OpenPingConnection => {}
        }
        if matches!(action, Action::Readyz | Action::FreshProbe) {
            self.regular = now + jittered(self.intervals.probe, chance);
            self.probed = Some(now);
        }
    }

    /// What to do. `slot`: from when on a further fresh probe fits; `None`: not before one has ended.
    /// `unauthenticated`: a connection is kept for pings only.
    pub(super) fn plan(
        &self,
        directive: Directive,
        connection: Option<ConnectionState>,
        slot: Option<NextSlot>,
        unauthenticated: bool,
    ) -> Plan {
        let probed = if directive.fresh_connection { self.fresh } else { self.probed };
        let required =
            directive.not_before.filter(|not_before| probed.is_none_or(|probed| probed < *not_before));
        let ping_only = connection.is_some_and(|connection| connection.ping_only);
        let (readyz, fresh) = match (directive.pace, connection) {
            (Pace::Burst, _) => {
                (None, Some(self.fresh.map_or(self.regular, |latest| latest + BURST_INTERVAL)))
            }
            (Pace::Rush, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + RUSH_INTERVAL))),
            (Pace::Steady | Pace::Watchful, None) => (None, required.or(Some(self.regular))),
            (_, Some(connection))
                if required.is_some()
                    && (directive.fresh_connection || ping_only || connection.blocks_readyz) =>
            {
                (None, required)
            }
            (_, Some(_)) if required.is_some() => (required, None),
            (Pace::Watchful, Some(_)) if ping_only => (None, Some(self.readyz.min(self.regular))),
            (Pace::Steady, Some(_)) if ping_only => (None, Some(self.readyz)),
            (_, Some(connection)) if connection.readyz_pending || connection.blocks_readyz => (None, None),
            (Pace::Watchful, Some(_)) => (Some(self.readyz.min(self.regular)), None),
            (Pace::Steady, Some(_)) => (Some(self.readyz), None),
        };
        let renew = connection.and_then(|connection| connection.renew);
        let urgent = required.is_some() || matches!(directive.pace, Pace::Burst | Pace::Rush);
        let slot = slot.map(|slot| if urgent { slot.urgent } else { slot.later }.into_std());
        let last_request = self.pinged.max(self.probed);
        let required_ping = directive.ping_not_before.filter(|not_before| last_request < Some(*not_before));
        let ping = required_ping.map_or(self.ping, |required| required.min(self.ping));
        Plan {
            ping: connection.and_then(|connection| connection.can_ping.then_some(ping)),
            keepalive_check: connection.map(|_| self.keepalive_check),
            readyz,
            fresh: fresh.into_iter().chain(renew).min().zip(slot).map(|(due, slot)| due.max(slot)),
            ping_connection: (connection.is_none() && unauthenticated).then_some(self.ping_connection),
        }
    }
}

/// With ten percent jitter. Intervals that differ add up: two nodes that began alike, or one and a fault that comes and
/// goes with the interval, do not stay in step.
pub(super) fn jittered(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + chance * 0.2)
}

/// Instants about an interval apart, the same for every clone.
#[derive(Clone, Debug)]
pub(super) struct PingTicker {
    next: Arc<Mutex<Instant>>,
    interval: Duration,
}

impl PingTicker {
    /// `chance`, from 0 up to 1, says where in the interval from `now` the first one comes.
    pub(super) fn new(interval: Duration, now: Instant, chance: f64) -> Self {
        Self { next: Arc::new(Mutex::new(now + interval.mul_f64(chance))), interval }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The next one after `instant`. The first call draws it, by `chance`, from 0 up to 1.
    pub(super) fn after(&self, instant: Instant, chance: f64) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if *next <= instant {
            *next += jittered(self.interval, chance);
        }
        // There was no call for a while.
        if *next <= instant {
            *next = instant + self.interval.mul_f64(chance.max(f64::EPSILON));
        }
        *next
    }
}

#[cfg(test)]
mod tests;
