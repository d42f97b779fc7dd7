//! One backend over time: probes in, state out.

use std::time::{Duration, Instant};

use super::run::Run;
use super::{Answered, BackendHealth, Cue, FailReason, Outcome, Probe, State};

/// The hold-down after the second failure within [`MEMORY`]; it doubles with each further one.
const HOLD_MIN: Duration = Duration::from_secs(1);
/// No backend waits longer.
pub const HOLD_MAX: Duration = Duration::from_secs(60);
/// A backend that was Up for so long starts anew.
const MEMORY: Duration = Duration::from_secs(120);
/// The least that a handshake may take: kernels retransmit after 200 ms at the earliest (TCP_RTO_MIN).
pub const TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// A TCP handshake that took so long was sent again (the initial RTO of RFC 6298): it says nothing of the usual.
const SENT_AGAIN: Duration = Duration::from_secs(1);
/// The most.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// How many probes in a row decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub fall: u32,
    pub rise: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Tracker {
    pub state: State,
    pub since: Instant,
    pub noticed: Instant,
    cue: Cue,
    pub run: Option<Run>,
    /// When the control plane stopped publishing it.
    pub removed: Option<Instant>,
    /// Start of the latest probe that was answered.
    answered: Option<Instant>,
    /// Since when every answer was that it is ready, and how many said the same in a row.
    ready_since: Option<Instant>,
    ready: u32,
    unready: u32,
    /// Failures within the memory of the damping.
    falls: u32,
    hold: Duration,
    round_trip: Option<Duration>,
    /// Smoothed time of TCP and TLS. Not that of `/readyz`: a server that is slow to say whether it is ready must be
    /// missed no later than others when its cable is cut.
    handshake: Option<Duration>,
    sign: Option<(Instant, Cue)>,
    /// It runs on this node, as far as is known.
    pub local: bool,
    latest: Option<Answered>,
}

impl Tracker {
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Unknown,
            since: now,
            noticed: now,
            cue: Cue::Published,
            run: None,
            removed: None,
            answered: None,
            ready_since: None,
            ready: 0,
            unready: 0,
            falls: 0,
            hold: Duration::ZERO,
            round_trip: None,
            handshake: None,
            sign: None,
            local: false,
            latest: None,
        }
    }

    /// Something speaks against the backend. Fresh probes will tell.
    pub fn cue(&mut self, now: Instant, cue: Cue) {
        self.sign.get_or_insert((now, cue));
        if self.run.is_none() {
            self.run = Some(Run::new(now));
        }
    }

    /// Whether it ever answered.
    pub fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    pub fn observe(&mut self, probe: Probe, thresholds: Thresholds) {
        self.local = probe.local.unwrap_or(self.local);
        self.latest = probe.answered.or(self.latest);
        match probe.outcome {
            Outcome::Alive => self.measure_round_trip(probe),
            Outcome::Failed(reason) => self.failed(probe, reason),
            Outcome::Ready => self.answered(probe, true, thresholds),
            Outcome::Unready => self.answered(probe, false, thresholds),
        }
    }

    fn failed(&mut self, probe: Probe, reason: FailReason) {
        // Probes overlap: an older one that fails later says nothing.
        if self.answered.is_some_and(|answered| probe.started <= answered) {
            return;
        }
        self.cue(probe.finished, Cue::Probe);
        if let Some(run) = &mut self.run {
            run.failed(probe.started, reason);
        }
        self.ready_since = None;
        (self.ready, self.unready) = (0, 0);
    }

    fn answered(&mut self, probe: Probe, ready: bool, thresholds: Thresholds) {
        if self.answered.is_some_and(|answered| probe.started < answered) {
            return;
        }
        self.answered = Some(probe.started);
        self.run = None;
        self.measure_round_trip(probe);
        self.measure_handshake(probe);
        self.count(probe.finished, ready);
        let may_rise = self.ready >= thresholds.rise && self.hold_down(probe.finished).is_zero();
        let next = match self.state {
            State::Unknown if !ready => State::Draining,
            State::Unknown => State::Up,
            State::Up if self.unready >= thresholds.fall => {
                self.damp(probe.finished);
                State::Draining
            }
            State::Draining | State::Down if may_rise => State::Up,
            State::Down if self.unready >= thresholds.rise => State::Draining,
            unchanged => unchanged,
        };
        match next {
            State::Up if self.removed.is_some() => self.enter(State::Draining, probe.finished),
            next if next != self.state => self.enter(next, probe.finished),
            State::Up if ready => self.sign = None,
            _ => {}
        }
    }

    fn count(&mut self, now: Instant, ready: bool) {
        if ready {
            (self.ready, self.unready) = (self.ready.saturating_add(1), 0);
            self.ready_since.get_or_insert(now);
        } else {
            (self.ready, self.unready) = (0, self.unready.saturating_add(1));
            self.ready_since = None;
        }
        // The first answer that speaks against the state is the sign of what may follow.
        if self.ready.max(self.unready) == 1 {
            self.sign = Some((now, Cue::Readyz));
        }
    }

    /// Whether enough failed while another backend answered; enters [`State::Down`] then.
    pub fn judge(&mut self, now: Instant, thresholds: Thresholds) {
        let Some(run) = &mut self.run else { return };
        if run.is_proven(thresholds.fall) && self.state != State::Down {
            // Whoever comes back a moment later than another one after an outage of this node did not flap.
            if run.is_certain(thresholds.fall) {
                self.damp(now);
            }
            self.enter(State::Down, now);
        }
    }

    /// Each fall within the memory makes the way back longer; the first costs nothing.
    fn damp(&mut self, now: Instant) {
        if self.state == State::Up && now.saturating_duration_since(self.since) >= MEMORY {
            self.falls = 0;
        }
        let doublings = self.falls.checked_sub(1);
        self.hold =
            doublings.map_or(Duration::ZERO, |n| HOLD_MIN.saturating_mul(1 << n.min(16)).min(HOLD_MAX));
        self.falls = self.falls.saturating_add(1);
    }

    /// When it was withdrawn, if it was not asked since: an apiserver that stops withdraws itself and says so, too.
    pub fn withdrawn_unasked(&self) -> Option<Instant> {
        self.removed.filter(|removed| self.answered.is_none_or(|answered| answered < *removed))
    }

    /// Whether it drains for a reason that was seen after `from`: it is not published, or said since that it is unready.
    pub fn drains_since(&self, from: Instant) -> bool {
        self.removed.is_some() || (self.unready > 0 && self.answered.is_some_and(|answered| answered >= from))
    }

    /// Whether its last answer was that it is ready, and nothing speaks against it since.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.run.is_none() && self.ready > 0 && self.hold_down(now).is_zero()
    }

    /// How much longer it must be ready before it is Up.
    fn hold_down(&self, now: Instant) -> Duration {
        let waited = self.ready_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.hold.saturating_sub(waited)
    }

    /// Enters a state unless it is in it.
    pub fn enter(&mut self, state: State, now: Instant) {
        if self.state != state {
            self.state = state;
            self.since = now;
            (self.noticed, self.cue) = self.sign.unwrap_or((now, Cue::Published));
        }
        self.sign = None;
    }

    fn measure_round_trip(&mut self, probe: Probe) {
        if let Some(new) = probe.round_trip {
            self.round_trip = Some(smooth(self.round_trip, new));
        }
    }

    /// Hands are shaken rarely: a slow one among them must not stay the usual until long after, so that half of each
    /// quicker one counts.
    fn measure_handshake(&mut self, probe: Probe) {
        let Some(new) = probe.handshake else { return };
        if probe.round_trip.is_none_or(|time| time < SENT_AGAIN) {
            self.handshake = Some(match self.handshake {
                Some(old) if new < old => (old + new) / 2,
                old => smooth(old, new),
            });
        }
    }

    /// How long the next handshake, or ping, may take. While nobody answers, ever longer: perhaps all are slow.
    pub fn timeout(&self, thresholds: Thresholds) -> Duration {
        let usual = self.handshake.map_or(TIMEOUT_MIN, |time| time * 4).max(TIMEOUT_MIN);
        let doublings = match &self.run {
            Some(run) if run.lacks(thresholds.fall).is_some() => run.failures / 4,
            _ => 0,
        };
        usual.saturating_mul(1 << doublings.min(8)).min(TIMEOUT_MAX)
    }

    /// Whether a decision is near, so that probes follow each other quickly.
    pub fn is_pending(&self, thresholds: Thresholds) -> bool {
        match (&self.run, self.state) {
            (Some(_), State::Down) => false,
            // A long run without a witness is an outage of this node; it is not made better by haste.
            (Some(run), _) => run.lacks(thresholds.fall).is_none() || run.failures < 10,
            (None, State::Unknown) => true,
            (None, State::Up) => self.unready > 0,
            (None, State::Draining) => self.removed.is_none() && (1..thresholds.rise).contains(&self.ready),
            (None, State::Down) => self.ready.max(self.unready) < thresholds.rise,
        }
    }

    /// Whether nobody listens there, by the last probe.
    pub fn is_refusing(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.reason == Some(FailReason::Refused))
    }

    /// Whether it is ready again and only the hold-down keeps it from being Up.
    pub fn is_held_down(&self) -> bool {
        self.state == State::Draining && self.removed.is_none() && self.ready > 0
    }

    pub fn health(&self, now: Instant, ending: bool) -> BackendHealth {
        BackendHealth {
            state: self.state,
            since: self.since,
            noticed: self.noticed,
            cue: self.cue,
            published: self.removed.is_none(),
            answering: self.run.is_none() && self.answered.is_some(),
            ending,
            failing: self.run.as_ref().and_then(|run| run.reason),
            round_trip: self.round_trip,
            held_until: self.ready_since.map(|since| since + self.hold).filter(|until| {
                matches!(self.state, State::Down | State::Draining) && self.removed.is_none() && *until > now
            }),
            answered: self.latest,
        }
    }
}

/// As RFC 6298 smooths round trips: each new one weighs an eighth.
fn smooth(old: Option<Duration>, new: Duration) -> Duration {
    old.map_or(new, |old| (old * 7 + new) / 8)
}
