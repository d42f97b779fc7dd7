//! When the next ping, question, look or fresh probe of one backend is due.
//!
//! In: the directive, what the kept-open connection is doing, what was started when. Out: a [`Plan`]. Chance is an
//! argument: a number from 0 up to, not including, 1.

use std::time::{Duration, Instant};

use super::beat::{Beat, about};
use super::dials::Free;
use super::directive::{Directive, Pace};
use super::socket::KEEPALIVE;

/// Between two starts of a burst.
const BURST: Duration = Duration::from_millis(50);
/// Between two starts while dials are refused or reset.
const RUSH: Duration = Duration::from_millis(10);
/// Between two pings to a backend that is in use. A ping that stays unanswered and the burst that follows take 0.65 s: whoever
/// opened a connection in the moment in which a cable was cut sends its SYN again after 1 s (RFC 6298), and must find another
/// backend then.
const IN_USE: Duration = Duration::from_millis(200);
/// The least between two looks at what the host acknowledges.
const LOOK: Duration = Duration::from_millis(100);
/// The longest pause between two tries to open a connection that carries pings only.
const HOLD_MAX: Duration = Duration::from_secs(30);

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `OPTIONS *` on the kept-open connection.
    Ping,
    /// `/readyz` on the kept-open connection.
    Ask,
    /// A fresh probe.
    Fresh,
    /// Whether the host acknowledges the kernel's keepalive.
    Look,
    /// A connection that carries pings only.
    Hold,
}

/// The state of the kept-open connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// A ping can be sent.
    pub(super) may_ping: bool,
    /// `/readyz` is asked for and not answered.
    pub(super) asking: bool,
    /// A ping is under way that leaves no room for a question: HTTP/1.1.
    pub(super) busy: bool,
    /// It carries pings only, or is silent: who asks makes a fresh probe.
    pub(super) mute: bool,
    /// The connection of a fresh probe should take its place from then on.
    pub(super) renew: Option<Instant>,
}

/// What is due when; times in the past are due now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    ping: Option<Instant>,
    ask: Option<Instant>,
    fresh: Option<Instant>,
    look: Option<Instant>,
    hold: Option<Instant>,
}

impl Plan {
    /// What comes next.
    pub(super) fn next(&self) -> Option<(Instant, Action)> {
        let ask = self.ask.map(|at| (at, Action::Ask));
        let fresh = self.fresh.map(|at| (at, Action::Fresh));
        let ping = self.ping.map(|at| (at, Action::Ping));
        let look = self.look.map(|at| (at, Action::Look));
        let hold = self.hold.map(|at| (at, Action::Hold));
        ask.into_iter().chain(fresh).chain(ping).chain(look).chain(hold).min_by_key(|(at, _)| *at)
    }
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    /// Between two fresh probes where no connection is kept, or of a backend that is Down.
    pub(super) probe: Duration,
    /// Between two questions for `/readyz` where nothing speaks against a backend.
    pub(super) readyz: Duration,
}

/// The times of one backend.
#[derive(Clone, Debug)]
pub(super) struct Timetable {
    beat: Beat,
    intervals: Intervals,
    ping: Instant,
    pinged: Option<Instant>,
    look: Instant,
    readyz: Instant,
    /// The next probe of a backend that is asked at each interval.
    regular: Instant,
    hold: Instant,
    fresh: Option<Instant>,
    probed: Option<Instant>,
}

impl Timetable {
    /// Nothing was started yet: the first probe is due `now`. The beat is that of pings.
    pub(super) fn new(beat: Beat, intervals: Intervals, now: Instant) -> Self {
        Self {
            beat,
            intervals,
            ping: now,
            pinged: None,
            look: now,
            readyz: now,
            regular: now,
            hold: now,
            fresh: None,
            probed: None,
        }
    }

    /// A connection is kept from `now` on. It is asked anywhere in the interval from now, and its pings begin with this
    /// node's next beat: nodes that all connected when the apiserver came up must not ask in step. The host may take `limit` to
    /// acknowledge a keepalive. Over an `unasked` one there was no request: kube-apiserver waits 32 s for the first.
    pub(super) fn kept(&mut self, now: Instant, limit: Duration, unasked: bool, chance: f64) {
        self.ping = if unasked { now } else { self.beat.after(now, chance) };
        self.readyz = now + self.intervals.readyz.mul_f64(chance);
        self.look = now + KEEPALIVE + limit;
    }

    /// Connections were just led to this backend: whether its process answers is worth a question now, if it was not asked
    /// a moment ago.
    pub(super) fn in_use(&mut self, now: Instant) {
        let rested = self.pinged.map_or(now, |pinged| pinged + IN_USE);
        self.ping = self.ping.min(rested.max(now));
    }

    /// The host was heard so long ago: the next look is when it should have been heard again.
    pub(super) fn looked(&mut self, now: Instant, heard: Duration, limit: Duration) {
        self.look = now + (KEEPALIVE + limit).saturating_sub(heard).max(LOOK);
    }

    /// The kept connection was lost. Those that may bear witness are asked first; the burst that follows will not wait
    /// for the next regular probe.
    pub(super) fn lost(&mut self, now: Instant, chance: f64) {
        self.regular = now + about(self.intervals.probe, chance);
    }

    /// It was lost once more, which says nothing any longer of this server: a single probe tells, at once unless there
    /// was one within the interval. Later, one that flaps in step with the probes would be missed.
    pub(super) fn lost_again(&mut self, now: Instant, chance: f64) {
        let rested = self.probed.map_or(now, |probed| probed + about(self.intervals.probe, chance));
        self.regular = rested.max(now);
    }

    /// A fresh probe asks what the kept connection was asked, or should have been.
    pub(super) fn ask_afresh(&mut self, now: Instant) {
        self.regular = now;
    }

    /// The next try to open a connection that carries pings only, after so many that ended soon.
    pub(super) fn hold_again(&mut self, now: Instant, ended_soon: u32, chance: f64) {
        let pause = self.intervals.probe.saturating_mul(1 << ended_soon.min(16)).min(HOLD_MAX);
        self.hold = now + about(pause, chance);
    }

    /// `action` was started; over what is known of the kept connection.
    pub(super) fn started(&mut self, action: Action, link: Option<Link>, now: Instant, chance: f64) {
        match action {
            // At the beat, or late: the next one is the one after that.
            Action::Ping => {
                self.pinged = Some(now);
                self.ping = self.beat.after(now + self.beat.interval() / 2, chance);
            }
            Action::Ask => self.readyz = now + about(self.intervals.readyz, chance),
            Action::Fresh => {
                self.fresh = Some(now);
                if link.is_some_and(|link| link.mute) {
                    self.readyz = now + about(self.intervals.readyz, chance);
                }
            }
            Action::Look | Action::Hold => {}
        }
        if matches!(action, Action::Ask | Action::Fresh) {
            self.regular = now + about(self.intervals.probe, chance);
            self.probed = Some(now);
        }
    }

    /// What to do. `free`: from when on a further fresh probe fits; `None`: not before one has ended. `stranger`: a connection is
    /// kept for pings only.
    pub(super) fn plan(
        &self,
        directive: Directive,
        link: Option<Link>,
        free: Option<Free>,
        stranger: bool,
    ) -> Plan {
        let probed = if directive.afresh { self.fresh } else { self.probed };
        let owed = directive.not_before.filter(|demanded| probed.is_none_or(|probed| probed < *demanded));
        let mute = link.is_some_and(|link| link.mute);
        let (ask, fresh) = match (directive.pace, link) {
            (Pace::Burst, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + BURST))),
            (Pace::Rush, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + RUSH))),
            (Pace::Steady | Pace::Watchful, None) => (None, owed.or(Some(self.regular))),
            (_, Some(link)) if owed.is_some() && (directive.afresh || mute || link.busy) => (None, owed),
            (_, Some(_)) if owed.is_some() => (owed, None),
            (Pace::Watchful, Some(_)) if mute => (None, Some(self.readyz.min(self.regular))),
            (Pace::Steady, Some(_)) if mute => (None, Some(self.readyz)),
            (_, Some(link)) if link.asking || link.busy => (None, None),
            (Pace::Watchful, Some(_)) => (Some(self.readyz.min(self.regular)), None),
            (Pace::Steady, Some(_)) => (Some(self.readyz), None),
        };
        let renew = link.and_then(|link| link.renew);
        let hasty = owed.is_some() || matches!(directive.pace, Pace::Burst | Pace::Rush);
        let free = free.map(|free| if hasty { free.hasty } else { free.patient }.into_std());
        let spoken = self.pinged.max(self.probed);
        let owed_ping = directive.ping_not_before.filter(|demanded| spoken < Some(*demanded));
        let ping = owed_ping.map_or(self.ping, |owed| owed.min(self.ping));
        Plan {
            ping: link.and_then(|link| link.may_ping.then_some(ping)),
            look: link.map(|_| self.look),
            ask,
            fresh: fresh.into_iter().chain(renew).min().zip(free).map(|(due, free)| due.max(free)),
            hold: (link.is_none() && stranger).then_some(self.hold),
        }
    }
}

#[cfg(test)]
mod tests;
