//! A model of the prober of one backend on one node: what it starts when, and what it waits for, as `src/health` has it in
//! `prober`, `dials` and `timetable`. It has the daemon's credentials, and uses HTTP/2.
//!
//! In: the directive, what arrives. Out: what is due. The world says how it ends.

use std::time::Duration;

use apivip::health::detector::{Directive, Pace};

use super::random::Rng;
use super::world::{MS, Peer, SECOND, Time};

const BURST: Time = 50 * MS;
const RUSH: Time = 10 * MS;
const IN_USE: Time = 200 * MS;
const PROBE: Time = SECOND;
const PING: Time = 75 * SECOND;
const READYZ: Time = 600 * SECOND;
const UNFINISHED: usize = 2;
const WAITING: usize = 2;
const CONNECTED: Time = 10 * SECOND;
const AGAIN: Time = SECOND;
const SOON: Time = 5 * SECOND;
const SHORT_LIVED: u32 = 3;
/// Timeout of `/readyz`.
pub const PATIENCE: Time = 5 * SECOND;

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Ping,
    Readyz,
    Dial,
}

/// A handshake that is not finished.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    pub began: Time,
    overdue: Time,
    report: Time,
    pub connected: bool,
}

/// The kept connection.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Another one has another number.
    pub number: u64,
    pub peer: Peer,
    pub since: Time,
    pub pinged: Option<Time>,
    pub asked: Option<Time>,
    pub pong_by: Option<Time>,
    pub answer_by: Option<Time>,
    pub ping_at: Option<Time>,
    pub silent: bool,
    pub unacknowledged: bool,
}

/// What is overdue.
#[derive(Clone, Copy, Debug)]
pub enum Overdue {
    Dial { began: Time, connected: bool },
    Ping,
    Request { asked: Time },
    Unready { asked: Time },
}

/// See the module.
#[derive(Debug)]
pub struct Prober {
    pub directive: Option<Directive>,
    pub kept: Option<Kept>,
    pub dials: Vec<Dial>,
    /// New connections that wait for `/readyz`.
    pub waiting: usize,
    /// When dials began whose TCP was established: a process that was stopped finds each of them.
    pub accepted: Vec<Time>,
    /// Which wake-up is the valid one.
    pub wake: u64,
    kept_number: u64,
    short_lived: u32,
    ping: Time,
    pinged: Option<Time>,
    readyz: Time,
    regular: Time,
    fresh: Option<Time>,
    probed: Option<Time>,
}

impl Prober {
    pub fn new(now: Time) -> Self {
        Self {
            directive: None,
            kept: None,
            dials: Vec::new(),
            waiting: 0,
            accepted: Vec::new(),
            wake: 0,
            kept_number: 0,
            short_lived: 0,
            ping: now,
            pinged: None,
            readyz: now,
            regular: now,
            fresh: None,
            probed: None,
        }
    }

    pub fn limit(&self) -> Time {
        self.directive.map_or(300 * MS, |directive| micros(directive.limit))
    }

    /// The next action, and when it is due. `to` converts a time of the directive.
    pub fn next(&self, now: Time, to: impl Fn(std::time::Instant) -> Time) -> Option<(Time, Action)> {
        let directive = self.directive?;
        let probed = if directive.fresh_connection { self.fresh } else { self.probed };
        let owed = directive.not_before.map(&to).filter(|at| probed.is_none_or(|probed| probed < *at));
        let kept = self.kept.as_ref();
        let unresponsive = kept.is_some_and(|kept| kept.silent || kept.unacknowledged);
        let asking = kept.is_some_and(|kept| kept.asked.is_some());
        let (ask, fresh) = match (directive.pace, kept) {
            (Pace::Burst, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + BURST))),
            (Pace::Rush, _) => (None, Some(self.fresh.map_or(self.regular, |latest| latest + RUSH))),
            (_, None) => (None, owed.or(Some(self.regular))),
            (_, Some(_)) if owed.is_some() && (directive.fresh_connection || unresponsive) => (None, owed),
            (_, Some(_)) if owed.is_some() => (owed, None),
            (Pace::Watchful, Some(_)) if unresponsive => (None, Some(self.readyz.min(self.regular))),
            (Pace::Steady, Some(_)) if unresponsive => (None, Some(self.readyz)),
            (_, Some(_)) if asking => (None, None),
            (Pace::Watchful, Some(_)) => (Some(self.readyz.min(self.regular)), None),
            (Pace::Steady, Some(_)) => (Some(self.readyz), None),
        };
        let urgent = owed.is_some() || matches!(directive.pace, Pace::Burst | Pace::Rush);
        let free = (self.waiting < WAITING).then(|| match self.dials.get(UNFINISHED - 1) {
            None => now,
            Some(young) if young.connected && !urgent => young.began + CONNECTED,
            Some(young) => young.overdue,
        });
        let spoken = self.pinged.max(self.probed);
        let owed_ping = directive.ping_not_before.map(to).filter(|at| spoken < Some(*at));
        let ping = owed_ping.map_or(self.ping, |owed| owed.min(self.ping));
        let ping = kept.filter(|kept| kept.pinged.is_none()).map(|_| (ping, Action::Ping));
        let ask = ask.map(|at| (at, Action::Readyz));
        let fresh = fresh.zip(free).map(|(due, free)| (due.max(free), Action::Dial));
        ask.into_iter().chain(fresh).chain(ping).min_by_key(|(at, _)| *at)
    }

    /// When something is overdue next.
    pub fn deadline(&self) -> Option<Time> {
        let kept = self.kept.iter().flat_map(|kept| [kept.pong_by, kept.answer_by, kept.ping_at]).flatten();
        kept.chain(self.dials.iter().map(|dial| dial.report)).min()
    }

    /// Notes that an action was started. A new dial may replace the younger one of two.
    pub fn started(&mut self, action: Action, now: Time, rng: &mut Rng) -> Option<Dial> {
        let limit = self.limit();
        let about = |interval: Time, rng: &mut Rng| (interval as f64 * (0.9 + 0.2 * rng.draw())) as Time;
        if action != Action::Ping {
            self.regular = now + about(PROBE, rng);
            self.probed = Some(now);
        }
        match action {
            Action::Ping => {
                self.pinged = Some(now);
                self.ping = now + about(PING, rng);
                if let Some(kept) = &mut self.kept {
                    (kept.pinged, kept.pong_by) = (Some(now), Some(now + limit));
                }
            }
            Action::Readyz => {
                self.readyz = now + about(READYZ, rng);
                if let Some(kept) = &mut self.kept {
                    kept.asked = Some(now);
                    (kept.ping_at, kept.answer_by) = (Some(now + limit), Some(now + PATIENCE));
                }
            }
            Action::Dial => {
                self.fresh = Some(now);
                if self.kept.is_some_and(|kept| kept.silent || kept.unacknowledged) {
                    self.readyz = now + about(READYZ, rng);
                }
                let younger = (self.dials.len() >= UNFINISHED).then(|| self.dials.pop()).flatten();
                let (overdue, connected) = (now + limit, false);
                self.dials.push(Dial { began: now, overdue, report: overdue, connected });
                return younger;
            }
        }
        None
    }

    /// What is overdue by now.
    pub fn overdue(&mut self, now: Time) -> Vec<Overdue> {
        let limit = self.limit();
        let mut all = Vec::new();
        for dial in self.dials.iter_mut().filter(|dial| dial.report <= now) {
            dial.report = now + AGAIN;
            all.push(Overdue::Dial { began: dial.began, connected: dial.connected });
        }
        let Some(kept) = &mut self.kept else { return all };
        let over = |by: Option<Time>| by.is_some_and(|by| by <= now);
        if over(kept.ping_at) {
            kept.ping_at = None;
            if kept.pinged.is_none() {
                (kept.pinged, kept.pong_by) = (Some(now), Some(now + limit));
                all.push(Overdue::Ping);
            }
        }
        let mut asked = None;
        if over(kept.pong_by) {
            kept.pong_by = None;
            asked = kept.pinged;
        }
        if over(kept.answer_by) {
            kept.answer_by = None;
            if !kept.silent && asked.is_none() {
                all.extend(kept.asked.take().map(|asked| Overdue::Unready { asked }));
                return all;
            }
            asked = asked.or(kept.asked);
        }
        if let Some(asked) = asked {
            kept.silent = true;
            all.push(Overdue::Request { asked });
        }
        all
    }

    /// A connection may be kept: it is, if no other one answers.
    pub fn adopt(&mut self, peer: Peer, since: Time, rng: &mut Rng) -> Option<Kept> {
        if self.kept.is_some_and(|kept| !kept.silent && !kept.unacknowledged) {
            return None;
        }
        self.kept_number += 1;
        self.ping = since + (PING as f64 * rng.draw()) as Time;
        self.readyz = since + (READYZ as f64 * rng.draw()) as Time;
        self.kept = Some(Kept {
            number: self.kept_number,
            peer,
            since,
            pinged: None,
            asked: None,
            pong_by: None,
            answer_by: None,
            ping_at: None,
            silent: false,
            unacknowledged: false,
        });
        self.kept
    }

    /// The kept connection ended. Returns whether that is a trigger.
    pub fn lost(&mut self, now: Time, rng: &mut Rng) -> bool {
        let about = (PROBE as f64 * (0.9 + 0.2 * rng.draw())) as Time;
        let Some(kept) = self.kept.take() else { return false };
        self.short_lived = if now - kept.since < SOON { self.short_lived + 1 } else { 0 };
        self.regular = now + about;
        let triggers = self.short_lived <= SHORT_LIVED;
        if !triggers {
            self.regular = self.probed.map_or(now, |probed| probed + about).max(now);
        }
        triggers
    }

    /// New connections were just redirected to it.
    pub fn in_use(&mut self, now: Time) {
        let rested = self.pinged.map_or(now, |pinged| pinged + IN_USE);
        self.ping = self.ping.min(rested.max(now));
    }
}

fn micros(duration: Duration) -> Time {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
