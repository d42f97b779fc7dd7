//! The state machine of one backend: probe results in, state out. Pure.

use std::time::{Duration, Instant};

use super::evidence::{FailureRun, Silence};
use crate::model::health::{
    BackendHealth, FailReason, HealthOptions, HealthState, ProbeOutcome, ProbeResult, ReadyzAnswer,
    TerminationBlocker, Trigger,
};

/// The hold-down after the second failure within [`FLAP_WINDOW`]; it doubles with each further one.
const HOLD_DOWN_MIN: Duration = Duration::from_secs(1);
/// No backend waits longer.
pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(60);
/// A backend that was Healthy for so long starts anew.
const FLAP_WINDOW: Duration = Duration::from_secs(120);
/// The least that a handshake may take: kernels retransmit after 200 ms at the earliest (TCP_RTO_MIN).
pub const TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// A TCP handshake that took so long was sent again (the initial RTO of RFC 6298): it says nothing of the usual.
const RETRANSMITTED: Duration = Duration::from_secs(1);
/// The most.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// After a shorter silence no client connection is challenged: TCP retransmission recovers from it.
const CHALLENGE_AFTER: Duration = Duration::from_secs(1);
/// A backend that answered within this, however late, is late and not silent.
const LATE: Duration = Duration::from_secs(5);
/// So many limits are "about a second" for a backend whose handshakes take less than 75 ms: an answer that takes
/// longer is late. A client whose SYN was lost sends it again after 1 s (RFC 6298), and must find another backend
/// then.
const LATE_FACTOR: u32 = 2;

/// The input of an evaluation, after time has passed or another backend was probed.
pub(super) struct Evaluation<'a> {
    pub now: Instant,
    pub options: &'a HealthOptions,
    /// Another backend is presumed alive.
    pub other_alive: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Tracker {
    pub state: HealthState,
    pub since: Instant,
    pub noticed: Instant,
    trigger: Trigger,
    pub failures: Option<FailureRun>,
    pub silence: Option<Silence>,
    /// When anything was last received from it.
    last_heard: Option<Instant>,
    /// When the last answer came that was late.
    last_late: Option<Instant>,
    /// When its clients' connections are to be challenged, and when they were last to be.
    pub challenge_due: Option<Instant>,
    challenged: Option<Instant>,
    termination_blocked: Option<TerminationBlocker>,
    /// When the control plane stopped publishing it.
    pub removed: Option<Instant>,
    /// Until when it is kept after its removal, since it still has flows.
    pub keep_until: Option<Instant>,
    /// Start of the latest probe that was answered.
    last_answered: Option<Instant>,
    /// Since when every answer was that it is ready, and how many said the same in a row.
    ready_since: Option<Instant>,
    ready: u32,
    unready: u32,
    /// Failures within the memory of the damping.
    recent_failures: u32,
    hold_down: Duration,
    round_trip: Option<Duration>,
    /// Smoothed time of TCP and TLS. Not that of `/readyz`: a server that is slow to say whether it is ready must be
    /// missed no later than others when its cable is cut.
    handshake: Option<Duration>,
    first_sign: Option<(Instant, Trigger)>,
    /// It runs on this node, as far as is known.
    pub local: bool,
    readyz: Option<ReadyzAnswer>,
}

impl Tracker {
    pub fn new(now: Instant) -> Self {
        Self {
            state: HealthState::Unknown,
            since: now,
            noticed: now,
            trigger: Trigger::EndpointsChanged,
            failures: None,
            silence: None,
            last_heard: None,
            last_late: None,
            challenge_due: None,
            challenged: None,
            termination_blocked: None,
            removed: None,
            keep_until: None,
            last_answered: None,
            ready_since: None,
            ready: 0,
            unready: 0,
            recent_failures: 0,
            hold_down: Duration::ZERO,
            round_trip: None,
            handshake: None,
            first_sign: None,
            local: false,
            readyz: None,
        }
    }

    /// There is a sign of failure. Fresh probes will tell.
    pub fn suspect(&mut self, now: Instant, trigger: Trigger) {
        self.first_sign.get_or_insert((now, trigger));
        if self.failures.is_none() {
            self.failures = Some(FailureRun::new(now));
        }
    }

    /// A request of that time is overdue. `chance` is drawn for the silence that begins.
    pub fn overdue(&mut self, asked: Instant, chance: f64) -> &mut Silence {
        let since = self.last_heard.map_or(asked, |last_heard| last_heard.max(asked));
        let last_heard = self.last_heard.unwrap_or(since);
        self.silence.get_or_insert_with(|| Silence::new(since, last_heard, chance))
    }

    /// Something was received from it, or from its host. `spread` is the delay before its clients' connections are
    /// challenged, if they are.
    pub fn heard(&mut self, now: Instant, spread: Duration) {
        self.last_heard = self.last_heard.max(Some(now));
        self.termination_blocked = None;
        let lasted = self.silence.take().map(|silence| now.saturating_duration_since(silence.since));
        if lasted.is_some_and(|lasted| lasted >= CHALLENGE_AFTER) {
            self.challenge_at(now + spread);
        }
        if self.state == HealthState::Failed {
            self.enter(HealthState::Suspect, now);
        }
    }

    /// A connection attempt that began then is overdue.
    pub fn connect_failed(&mut self, began: Instant, now: Instant) {
        if self.last_answered.is_none_or(|answered| began > answered) {
            self.suspect(now, Trigger::ProbeFailed);
            if let Some(run) = &mut self.failures {
                run.failed(began, FailReason::Timeout);
            }
            self.ready_since = None;
            (self.ready, self.unready) = (0, 0);
        }
    }

    /// Its clients' connections are to be challenged then, if not sooner.
    fn challenge_at(&mut self, at: Instant) {
        self.challenge_due = Some(self.challenge_due.map_or(at, |due| due.min(at)));
    }

    pub fn observe(&mut self, probe: ProbeResult, options: &HealthOptions, spread: Duration) {
        self.local = probe.local.unwrap_or(self.local);
        self.readyz = probe.readyz.or(self.readyz);
        match probe.outcome {
            ProbeOutcome::Failed(FailReason::Timeout | FailReason::Unreachable) => {}
            // A rebooted host has lost its connections, and nodes connect to it at different times.
            ProbeOutcome::Failed(_) => self.heard(probe.finished, Duration::ZERO),
            // A process that continues answers all nodes at the same instant.
            _ => self.heard(probe.finished, spread),
        }
        match probe.outcome {
            ProbeOutcome::Alive => {
                self.measure_round_trip(probe);
                self.note_late(probe, options);
            }
            ProbeOutcome::Failed(reason) => self.failed(probe, reason, spread),
            ProbeOutcome::Ready => self.answered(probe, true, options),
            ProbeOutcome::Unready => self.answered(probe, false, options),
        }
    }

    fn failed(&mut self, probe: ProbeResult, reason: FailReason, spread: Duration) {
        // Probes overlap: an older one that fails later says nothing.
        if self.last_answered.is_some_and(|answered| probe.started <= answered) {
            return;
        }
        self.suspect(probe.finished, Trigger::ProbeFailed);
        if let Some(run) = &mut self.failures {
            let first = reason == FailReason::Refused && run.reason != Some(FailReason::Refused);
            run.failed(probe.started, reason);
            if first {
                self.challenge_at(probe.finished + spread);
            }
        }
        self.ready_since = None;
        (self.ready, self.unready) = (0, 0);
    }

    /// Whether an answer took longer than "about a second".
    fn is_late(&self, probe: &ProbeResult, options: &HealthOptions) -> bool {
        let took = probe.finished.saturating_duration_since(probe.started);
        took > self.limit(options) * LATE_FACTOR
    }

    fn note_late(&mut self, probe: ProbeResult, options: &HealthOptions) {
        if self.is_late(&probe, options) {
            self.last_late = self.last_late.max(Some(probe.finished));
        }
    }

    fn answered(&mut self, probe: ProbeResult, ready: bool, options: &HealthOptions) {
        if self.last_answered.is_some_and(|answered| probe.started < answered) {
            return;
        }
        self.last_answered = Some(probe.started);
        let late = self.is_late(&probe, options) && self.handshake.is_some();
        self.note_late(probe, options);
        self.measure_round_trip(probe);
        if !late {
            self.measure_handshake(probe);
        }
        self.failures = None;
        if late && ready {
            (self.ready, self.unready, self.ready_since) = (0, 0, None);
            if self.state.is_out() && self.removed.is_none() {
                self.enter(HealthState::Late, probe.finished);
            }
            return;
        }
        self.count(probe.finished, ready);
        let may_rise = self.ready >= options.rise && self.hold_down_left(probe.finished).is_zero();
        let next = match self.state {
            HealthState::Unknown if !ready => HealthState::Draining,
            HealthState::Unknown => HealthState::Healthy,
            HealthState::Healthy if self.unready >= options.fall => {
                self.extend_hold_down(probe.finished);
                HealthState::Draining
            }
            HealthState::Draining | HealthState::Suspect | HealthState::Failed | HealthState::Late
                if may_rise =>
            {
                HealthState::Healthy
            }
            HealthState::Suspect | HealthState::Failed | HealthState::Late
                if self.unready >= options.rise =>
            {
                HealthState::Draining
            }
            unchanged => unchanged,
        };
        match next {
            HealthState::Healthy if self.removed.is_some() => {
                self.enter(HealthState::Draining, probe.finished)
            }
            next if next != self.state => self.enter(next, probe.finished),
            HealthState::Healthy if ready => self.first_sign = None,
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
        // The first answer that contradicts the state is the sign of what may follow.
        if self.ready.max(self.unready) == 1 {
            self.first_sign = Some((now, Trigger::ReadyzChanged));
        }
    }

    /// Decides what follows from time and from what others say.
    pub fn evaluate(&mut self, evaluation: &Evaluation) {
        let Evaluation { now, options, other_alive } = *evaluation;
        self.termination_blocked = None;
        if self.challenge_due.is_some_and(|due| now >= due) {
            (self.challenged, self.challenge_due) = (self.challenge_due, None);
        }
        if self.state == HealthState::Late && !self.was_late(now) && self.last_heard < now.checked_sub(LATE) {
            self.enter(HealthState::Suspect, now);
        }
        self.leave_rotation(now, options, other_alive);
        let Some(silence) = &self.silence else { return };
        if self.state == HealthState::Failed || now < silence.due(options) {
            return;
        }
        // Packets of an API server on this node are not observed.
        let verdict =
            if self.local { Err(TerminationBlocker::NotObserved) } else { silence.verdict(now, options) };
        match verdict {
            Ok(()) if self.state == HealthState::Suspect => self.enter(HealthState::Failed, now),
            Ok(()) => {}
            // Within the spread the proof may still be completed.
            Err(withheld) => {
                tracing::debug!(
                    event = %"connection_reset_withheld", reason = %withheld, ?silence,
                    "Not resetting connections to silent API server"
                );
                let expected = silence.since + options.silence_timeout + options.reset_jitter;
                self.termination_blocked = (now >= expected).then_some(withheld);
            }
        }
    }

    /// A refused connection is enough where another backend is presumed alive. Silence takes time and a witness; so
    /// does an invalid response.
    fn leave_rotation(&mut self, now: Instant, options: &HealthOptions, other_alive: bool) {
        if self.state.is_out() {
            return;
        }
        let in_time = self.limit(options) * LATE_FACTOR;
        let Some(run) = &mut self.failures else { return };
        let refused = run.reason == Some(FailReason::Refused) && other_alive;
        if !(refused || run.is_proven(options.fall)) {
            return;
        }
        let quiet = self.silence.as_ref().is_some_and(|s| now.saturating_duration_since(s.since) >= in_time);
        if run.is_silent() && !quiet {
            return;
        }
        let backend_fault = refused || run.is_backend_fault();
        let late = run.is_silent() && self.was_late(now) && self.removed.is_none();
        let next = if late { HealthState::Late } else { HealthState::Suspect };
        // One that is late already is evaluated again and again.
        if backend_fault && next != self.state {
            self.extend_hold_down(now);
        }
        self.enter(next, now);
    }

    /// Whether it answered a short while ago, if late.
    fn was_late(&self, now: Instant) -> bool {
        self.last_late.is_some_and(|late| now.saturating_duration_since(late) < LATE)
    }

    /// Each failure within the flap window doubles the hold-down; the first has none.
    fn extend_hold_down(&mut self, now: Instant) {
        if self.state == HealthState::Healthy && now.saturating_duration_since(self.since) >= FLAP_WINDOW {
            self.recent_failures = 0;
        }
        let doublings = self.recent_failures.checked_sub(1);
        self.hold_down = doublings
            .map_or(Duration::ZERO, |n| HOLD_DOWN_MIN.saturating_mul(1 << n.min(16)).min(HOLD_DOWN_MAX));
        self.recent_failures = self.recent_failures.saturating_add(1);
    }

    /// When it was removed, if it was not probed since: an API server that shuts down removes itself and reports unready, too.
    pub fn removed_and_unprobed(&self) -> Option<Instant> {
        self.removed.filter(|removed| self.last_answered.is_none_or(|answered| answered < *removed))
    }

    /// Whether it drains for a reason that was seen after `from`: it is not published, or said since that it is unready.
    pub fn drains_since(&self, from: Instant) -> bool {
        self.removed.is_some()
            || (self.unready > 0 && self.last_answered.is_some_and(|answered| answered >= from))
    }

    /// Whether its last answer was that it is ready, and there was no sign of failure since.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.failures.is_none() && self.ready > 0 && self.hold_down_left(now).is_zero()
    }

    /// How much longer it must be ready before it is Healthy.
    fn hold_down_left(&self, now: Instant) -> Duration {
        let waited = self.ready_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.hold_down.saturating_sub(waited)
    }

    /// Enters a state unless it is in it.
    pub fn enter(&mut self, state: HealthState, now: Instant) {
        if self.state != state {
            self.state = state;
            self.since = now;
            (self.noticed, self.trigger) = self.first_sign.unwrap_or((now, Trigger::EndpointsChanged));
        }
        self.first_sign = None;
    }

    fn measure_round_trip(&mut self, probe: ProbeResult) {
        if let Some(new) = probe.round_trip {
            self.round_trip = Some(smooth(self.round_trip, new));
        }
    }

    /// Fresh handshakes are rare: a slow one must not dominate the average for long, so half of each
    /// quicker one counts.
    fn measure_handshake(&mut self, probe: ProbeResult) {
        let Some(new) = probe.handshake else { return };
        if probe.round_trip.is_none_or(|time| time < RETRANSMITTED) {
            self.handshake = Some(match self.handshake {
                Some(old) if new < old => (old + new) / 2,
                old => smooth(old, new),
            });
        }
    }

    /// After how long the next handshake, or ping, is overdue. While no backend answers, the limit grows: perhaps all are slow.
    pub fn limit(&self, options: &HealthOptions) -> Duration {
        let usual = self.handshake.map_or(TIMEOUT_MIN, |time| time * 4).max(TIMEOUT_MIN);
        let doublings = match &self.failures {
            Some(run) if run.lacks(options.fall).is_some() => run.failures / 4,
            _ => 0,
        };
        usual.saturating_mul(1 << doublings.min(8)).min(TIMEOUT_MAX)
    }

    /// Whether a decision is near, so that probes follow each other quickly.
    pub fn is_decision_pending(&self, options: &HealthOptions) -> bool {
        match (&self.failures, self.state) {
            (Some(_), HealthState::Suspect | HealthState::Failed | HealthState::Late) => false,
            // A long run without a witness is an outage of this node; it is not made better by haste.
            (Some(run), _) => run.lacks(options.fall).is_none() || run.failures < 10,
            (None, HealthState::Unknown) => true,
            (None, HealthState::Healthy) => self.unready > 0,
            (None, HealthState::Draining) => {
                self.removed.is_none() && (1..options.rise).contains(&self.ready)
            }
            (None, HealthState::Suspect | HealthState::Failed | HealthState::Late) => {
                self.ready.max(self.unready) < options.rise && !self.was_late_last()
            }
        }
    }

    /// Whether its last answer was late.
    fn was_late_last(&self) -> bool {
        self.last_late.is_some() && self.last_late >= self.last_heard
    }

    /// Whether the last probe was refused or reset.
    pub fn is_refusing(&self) -> bool {
        let reason = self.failures.as_ref().and_then(|run| run.reason);
        matches!(reason, Some(FailReason::Refused | FailReason::Reset))
    }

    /// Whether it is presumed alive.
    pub fn is_presumed_alive(&self) -> bool {
        matches!(self.state, HealthState::Healthy | HealthState::Late | HealthState::Draining)
            && self.failures.is_none()
    }

    /// Whether it is ready again and only the hold-down keeps it from being Healthy.
    pub fn is_held_down(&self) -> bool {
        self.state == HealthState::Draining && self.removed.is_none() && self.ready > 0
    }

    /// Its public health.
    pub fn health(&self, now: Instant, end_flows: bool) -> BackendHealth {
        BackendHealth {
            state: self.state,
            since: self.since,
            noticed: self.noticed,
            trigger: self.trigger,
            published: self.removed.is_none(),
            answering: self.failures.is_none() && self.last_answered.is_some(),
            end_flows,
            challenge_at: self.challenged,
            silent_since: self.silence.as_ref().map(|silence| silence.since),
            termination_blocked: self.termination_blocked,
            failure: self.failures.as_ref().and_then(|run| run.reason),
            round_trip: self.round_trip,
            hold_down_until: self.ready_since.map(|since| since + self.hold_down).filter(|until| {
                matches!(self.state, HealthState::Suspect | HealthState::Failed | HealthState::Draining)
                    && self.removed.is_none()
                    && *until > now
            }),
            readyz: self.readyz,
        }
    }
}

/// As RFC 6298 smooths round trips: each new one weighs an eighth.
fn smooth(old: Option<Duration>, new: Duration) -> Duration {
    old.map_or(new, |old| (old * 7 + new) / 8)
}
