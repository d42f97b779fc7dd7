//! One backend over time: probes in, state out. Pure.

use std::time::{Duration, Instant};

use super::failures::Run;
use super::silence::Silence;
use crate::model::health::{
    Answered, BackendHealth, Cue, FailReason, HealthOptions, Outcome, Probe, State, Withheld,
};

/// The hold-down after the second failure within [`MEMORY`]; it doubles with each further one.
const HOLD_MIN: Duration = Duration::from_secs(1);
/// No backend waits longer.
pub const HOLD_MAX: Duration = Duration::from_secs(60);
/// A backend that was Healthy for so long starts anew.
const MEMORY: Duration = Duration::from_secs(120);
/// The least that a handshake may take: kernels retransmit after 200 ms at the earliest (TCP_RTO_MIN).
pub const TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// A TCP handshake that took so long was sent again (the initial RTO of RFC 6298): it says nothing of the usual.
const SENT_AGAIN: Duration = Duration::from_secs(1);
/// The most.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// A silence shorter than this asks no client whether its connection still stands: none was lost in it that TCP does not mend.
const BRIEF: Duration = Duration::from_secs(1);
/// Whoever answered within this, however late, is late and not silent.
const LATE: Duration = Duration::from_secs(5);
/// So many limits are "about a second" for a backend whose handshakes take less than 75 ms: an answer that takes longer is late.
/// A client whose SYN was lost sends it again after 1 s (RFC 6298), and must find another backend then.
const IN_TIME: u32 = 2;

/// What is looked at when time has passed, or others have spoken.
pub(super) struct Look<'a> {
    pub now: Instant,
    pub options: &'a HealthOptions,
    /// Another backend is taken to answer, by all that is known.
    pub others: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Tracker {
    pub state: State,
    pub since: Instant,
    pub noticed: Instant,
    cue: Cue,
    pub run: Option<Run>,
    pub silence: Option<Silence>,
    /// When it was last heard of in whatever way.
    life: Option<Instant>,
    /// When the last answer came that was late.
    late: Option<Instant>,
    /// When its clients are to be asked whether their connections stand, and when they were last to be.
    pub ask_due: Option<Instant>,
    asked: Option<Instant>,
    withheld: Option<Withheld>,
    /// When the control plane stopped publishing it.
    pub removed: Option<Instant>,
    /// Until when it is kept after its removal, since it still has flows.
    pub keep_until: Option<Instant>,
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
            silence: None,
            life: None,
            late: None,
            ask_due: None,
            asked: None,
            withheld: None,
            removed: None,
            keep_until: None,
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

    /// A question of that time is overdue. `chance` is drawn for the silence that begins.
    pub fn overdue(&mut self, asked: Instant, chance: f64) -> &mut Silence {
        let since = self.life.map_or(asked, |life| life.max(asked));
        let life = self.life.unwrap_or(since);
        self.silence.get_or_insert_with(|| Silence::new(since, life, chance))
    }

    /// Something was heard of it, or of its host. `spread` is how long its clients wait before they are asked, if they are.
    pub fn heard(&mut self, now: Instant, spread: Duration) {
        self.life = self.life.max(Some(now));
        self.withheld = None;
        let lasted = self.silence.take().map(|silence| now.saturating_duration_since(silence.since));
        if lasted.is_some_and(|lasted| lasted >= BRIEF) {
            self.ask_at(now + spread);
        }
        if self.state == State::Failed {
            self.enter(State::Suspect, now);
        }
    }

    /// A dial that began then is overdue.
    pub fn dial_failed(&mut self, began: Instant, now: Instant) {
        if self.answered.is_none_or(|answered| began > answered) {
            self.cue(now, Cue::Probe);
            if let Some(run) = &mut self.run {
                run.failed(began, FailReason::Timeout);
            }
            self.ready_since = None;
            (self.ready, self.unready) = (0, 0);
        }
    }

    /// Its clients are to be asked then, if not sooner.
    fn ask_at(&mut self, at: Instant) {
        self.ask_due = Some(self.ask_due.map_or(at, |due| due.min(at)));
    }

    pub fn observe(&mut self, probe: Probe, options: &HealthOptions, spread: Duration) {
        self.local = probe.local.unwrap_or(self.local);
        self.latest = probe.answered.or(self.latest);
        match probe.outcome {
            Outcome::Failed(FailReason::Timeout | FailReason::Unreachable) => {}
            // A host that came back knows nothing of connections from before, and nodes dial it at different times.
            Outcome::Failed(_) => self.heard(probe.finished, Duration::ZERO),
            // A process that goes on answers all in the same instant.
            _ => self.heard(probe.finished, spread),
        }
        match probe.outcome {
            Outcome::Alive => {
                self.measure_round_trip(probe);
                self.note_late(probe, options);
            }
            Outcome::Failed(reason) => self.failed(probe, reason, spread),
            Outcome::Ready => self.answered(probe, true, options),
            Outcome::Unready => self.answered(probe, false, options),
        }
    }

    fn failed(&mut self, probe: Probe, reason: FailReason, spread: Duration) {
        // Probes overlap: an older one that fails later says nothing.
        if self.answered.is_some_and(|answered| probe.started <= answered) {
            return;
        }
        self.cue(probe.finished, Cue::Probe);
        if let Some(run) = &mut self.run {
            let first = reason == FailReason::Refused && run.reason != Some(FailReason::Refused);
            run.failed(probe.started, reason);
            if first {
                self.ask_at(probe.finished + spread);
            }
        }
        self.ready_since = None;
        (self.ready, self.unready) = (0, 0);
    }

    /// Whether an answer took longer than "about a second".
    fn is_late(&self, probe: &Probe, options: &HealthOptions) -> bool {
        let took = probe.finished.saturating_duration_since(probe.started);
        took > self.limit(options) * IN_TIME
    }

    fn note_late(&mut self, probe: Probe, options: &HealthOptions) {
        if self.is_late(&probe, options) {
            self.late = self.late.max(Some(probe.finished));
        }
    }

    fn answered(&mut self, probe: Probe, ready: bool, options: &HealthOptions) {
        if self.answered.is_some_and(|answered| probe.started < answered) {
            return;
        }
        self.answered = Some(probe.started);
        let late = self.is_late(&probe, options) && self.handshake.is_some();
        self.note_late(probe, options);
        self.measure_round_trip(probe);
        if !late {
            self.measure_handshake(probe);
        }
        self.run = None;
        if late && ready {
            (self.ready, self.unready, self.ready_since) = (0, 0, None);
            if self.state.is_out() && self.removed.is_none() {
                self.enter(State::Late, probe.finished);
            }
            return;
        }
        self.count(probe.finished, ready);
        let may_rise = self.ready >= options.rise && self.hold_down(probe.finished).is_zero();
        let next = match self.state {
            State::Unknown if !ready => State::Draining,
            State::Unknown => State::Healthy,
            State::Healthy if self.unready >= options.fall => {
                self.damp(probe.finished);
                State::Draining
            }
            State::Draining | State::Suspect | State::Failed | State::Late if may_rise => State::Healthy,
            State::Suspect | State::Failed | State::Late if self.unready >= options.rise => State::Draining,
            unchanged => unchanged,
        };
        match next {
            State::Healthy if self.removed.is_some() => self.enter(State::Draining, probe.finished),
            next if next != self.state => self.enter(next, probe.finished),
            State::Healthy if ready => self.sign = None,
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

    /// Decides what follows from time and from what others say.
    pub fn judge(&mut self, look: &Look) {
        let Look { now, options, others } = *look;
        self.withheld = None;
        if self.ask_due.is_some_and(|due| now >= due) {
            (self.asked, self.ask_due) = (self.ask_due, None);
        }
        if self.state == State::Late && !self.was_late(now) && self.life < now.checked_sub(LATE) {
            self.enter(State::Suspect, now);
        }
        self.leave_the_path(now, options, others);
        let Some(silence) = &self.silence else { return };
        if self.state == State::Failed || now < silence.due(options) {
            return;
        }
        // What an apiserver on this node sends is seen by nobody but its clients.
        let verdict = if self.local { Err(Withheld::NotObserved) } else { silence.verdict(now, options) };
        match verdict {
            Ok(()) if self.state == State::Suspect => self.enter(State::Failed, now),
            Ok(()) => {}
            // Within the spread the proof may be on its way.
            Err(withheld) => {
                tracing::debug!(%withheld, ?silence, "flows of a silent apiserver are left alone");
                let expected = silence.since + options.silence_timeout + options.kill_spread;
                self.withheld = (now >= expected).then_some(withheld);
            }
        }
    }

    /// A refusal is enough where another backend is taken to answer. Silence takes time and a witness; so does what is no answer.
    fn leave_the_path(&mut self, now: Instant, options: &HealthOptions, others: bool) {
        if self.state.is_out() {
            return;
        }
        let in_time = self.limit(options) * IN_TIME;
        let Some(run) = &mut self.run else { return };
        let refused = run.reason == Some(FailReason::Refused) && others;
        if !(refused || run.is_proven(options.fall)) {
            return;
        }
        let quiet = self.silence.as_ref().is_some_and(|s| now.saturating_duration_since(s.since) >= in_time);
        if run.is_silent() && !quiet {
            return;
        }
        let its_own = refused || run.is_its_own();
        let late = run.is_silent() && self.was_late(now) && self.removed.is_none();
        let next = if late { State::Late } else { State::Suspect };
        // One that is late already is judged again and again.
        if its_own && next != self.state {
            self.damp(now);
        }
        self.enter(next, now);
    }

    /// Whether it answered a short while ago, if late.
    fn was_late(&self, now: Instant) -> bool {
        self.late.is_some_and(|late| now.saturating_duration_since(late) < LATE)
    }

    /// Each fall within the memory makes the way back longer; the first costs nothing.
    fn damp(&mut self, now: Instant) {
        if self.state == State::Healthy && now.saturating_duration_since(self.since) >= MEMORY {
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

    /// How much longer it must be ready before it is Healthy.
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

    /// After how long the next handshake, or ping, is overdue. While nobody answers, ever later: perhaps all are slow.
    pub fn limit(&self, options: &HealthOptions) -> Duration {
        let usual = self.handshake.map_or(TIMEOUT_MIN, |time| time * 4).max(TIMEOUT_MIN);
        let doublings = match &self.run {
            Some(run) if run.lacks(options.fall).is_some() => run.failures / 4,
            _ => 0,
        };
        usual.saturating_mul(1 << doublings.min(8)).min(TIMEOUT_MAX)
    }

    /// Whether a decision is near, so that probes follow each other quickly.
    pub fn is_pending(&self, options: &HealthOptions) -> bool {
        match (&self.run, self.state) {
            (Some(_), State::Suspect | State::Failed | State::Late) => false,
            // A long run without a witness is an outage of this node; it is not made better by haste.
            (Some(run), _) => run.lacks(options.fall).is_none() || run.failures < 10,
            (None, State::Unknown) => true,
            (None, State::Healthy) => self.unready > 0,
            (None, State::Draining) => self.removed.is_none() && (1..options.rise).contains(&self.ready),
            (None, State::Suspect | State::Failed | State::Late) => {
                self.ready.max(self.unready) < options.rise && !self.was_late_last()
            }
        }
    }

    /// Whether its last answer was late.
    fn was_late_last(&self) -> bool {
        self.late.is_some() && self.late >= self.life
    }

    /// Whether nobody listens there, or it is reset, by the last probe.
    pub fn is_refusing(&self) -> bool {
        let reason = self.run.as_ref().and_then(|run| run.reason);
        matches!(reason, Some(FailReason::Refused | FailReason::Reset))
    }

    /// Whether it is taken to answer, by all that is known.
    pub fn is_believed(&self) -> bool {
        matches!(self.state, State::Healthy | State::Late | State::Draining) && self.run.is_none()
    }

    /// Whether it is ready again and only the hold-down keeps it from being Healthy.
    pub fn is_held_down(&self) -> bool {
        self.state == State::Draining && self.removed.is_none() && self.ready > 0
    }

    /// As others see it.
    pub fn health(&self, now: Instant, ending: bool) -> BackendHealth {
        BackendHealth {
            state: self.state,
            since: self.since,
            noticed: self.noticed,
            cue: self.cue,
            published: self.removed.is_none(),
            answering: self.run.is_none() && self.answered.is_some(),
            ending,
            ask: self.asked,
            silent_since: self.silence.as_ref().map(|silence| silence.since),
            withheld: self.withheld,
            failing: self.run.as_ref().and_then(|run| run.reason),
            round_trip: self.round_trip,
            held_until: self.ready_since.map(|since| since + self.hold).filter(|until| {
                matches!(self.state, State::Suspect | State::Failed | State::Draining)
                    && self.removed.is_none()
                    && *until > now
            }),
            answered: self.latest,
        }
    }
}

/// As RFC 6298 smooths round trips: each new one weighs an eighth.
fn smooth(old: Option<Duration>, new: Duration) -> Duration {
    old.map_or(new, |old| (old * 7 + new) / 8)
}
