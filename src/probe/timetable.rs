//! When the next PING, question or fresh probe of one backend is due.
//!
//! In: the directive, what the kept-open connection is doing, what was started when. Out: a [`Plan`]. Chance is an
//! argument: a number from 0 up to, not including, 1.

use std::time::{Duration, Instant};

use super::beat::{Beat, about};
use crate::model::health::machine::{Directive, Pace};

/// Between two starts of a burst.
const BURST: Duration = Duration::from_millis(50);

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A PING on the kept-open connection.
    Ping,
    /// `/readyz` on the kept-open connection.
    Ask,
    /// A fresh probe.
    Fresh,
}

/// The state of the kept-open connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// It can send PINGs, and none is unanswered.
    pub(super) may_ping: bool,
    /// `/readyz` is asked for and not answered.
    pub(super) asking: bool,
}

/// What is due when; times in the past are due now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    ping: Option<Instant>,
    ask: Option<Instant>,
    fresh: Option<Instant>,
}

impl Plan {
    /// What comes next.
    pub(super) fn next(&self) -> Option<(Instant, Action)> {
        let ask = self.ask.map(|at| (at, Action::Ask));
        let fresh = self.fresh.map(|at| (at, Action::Fresh));
        let ping = self.ping.map(|at| (at, Action::Ping));
        ask.into_iter().chain(fresh).chain(ping).min_by_key(|(at, _)| *at)
    }
}

/// The times of one backend.
#[derive(Clone, Debug)]
pub(super) struct Timetable {
    beat: Beat,
    readyz_interval: Duration,
    ping: Instant,
    readyz: Instant,
    /// The next probe of a backend that is asked at each interval.
    regular: Instant,
    fresh: Option<Instant>,
    probed: Option<Instant>,
}

impl Timetable {
    /// Nothing was started yet: the first probe is due `now`.
    pub(super) fn new(beat: Beat, readyz_interval: Duration, now: Instant) -> Self {
        Self { beat, readyz_interval, ping: now, readyz: now, regular: now, fresh: None, probed: None }
    }

    /// A connection is kept from `now` on. It is asked anywhere in the interval from now, and its PINGs begin with this
    /// node's next beat: nodes that all connected when the apiserver came up must not ask in step.
    pub(super) fn kept(&mut self, now: Instant, chance: f64) {
        self.ping = self.beat.after(now, chance);
        self.readyz = now + self.readyz_interval.mul_f64(chance);
    }

    /// The kept connection was lost. Those that may bear witness are asked first; the burst that follows will not wait
    /// for the next regular probe.
    pub(super) fn lost(&mut self, now: Instant, chance: f64) {
        self.regular = now + about(self.beat.interval(), chance);
    }

    /// It was lost once more, which says nothing any longer of this server: a single probe tells, at once unless there
    /// was one within the interval. Later, one that flaps in step with the probes would be missed.
    pub(super) fn lost_again(&mut self, now: Instant, chance: f64) {
        let rested = self.probed.map_or(now, |probed| probed + about(self.beat.interval(), chance));
        self.regular = rested.max(now);
    }

    /// `action` was started.
    pub(super) fn started(&mut self, action: Action, now: Instant, chance: f64) {
        match action {
            // At the beat, or late: the next one is the one after that.
            Action::Ping => self.ping = self.beat.after(now + self.beat.interval() / 2, chance),
            Action::Ask => self.readyz = now + about(self.readyz_interval, chance),
            Action::Fresh => self.fresh = Some(now),
        }
        if action != Action::Ping {
            self.regular = now + about(self.beat.interval(), chance);
            self.probed = Some(now);
        }
    }

    /// What to do. `crowded`: no further fresh probe fits.
    pub(super) fn plan(&self, directive: Directive, link: Option<Link>, crowded: bool) -> Plan {
        let probed = if directive.afresh { self.fresh } else { self.probed };
        let owed = directive.not_before.filter(|demanded| probed.is_none_or(|probed| probed < *demanded));
        let ping = link.and_then(|link| link.may_ping.then_some(self.ping));
        let (ask, fresh) = match (directive.pace, link) {
            (Pace::Burst, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + BURST))),
            (Pace::Steady | Pace::Watchful, None) => (None, owed.or(Some(self.regular))),
            (_, Some(_)) if owed.is_some() && directive.afresh => (None, owed),
            (_, Some(_)) if owed.is_some() => (owed, None),
            (_, Some(link)) if link.asking => (None, None),
            (Pace::Watchful, Some(_)) => (Some(self.readyz.min(self.regular)), None),
            (Pace::Steady, Some(_)) => (Some(self.readyz), None),
        };
        Plan { ping, ask, fresh: fresh.filter(|_| !crowded) }
    }
}

#[cfg(test)]
mod tests;
