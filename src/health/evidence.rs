//! The evidence against a backend. Pure.
//!
//! [`FailureRun`] decides about new connections: failures in a row, and what other backends answer meanwhile: is it the
//! backend, or is it this node? [`Silence`] decides about established connections: requests that stay unanswered, what other
//! backends answer meanwhile, what clients' own connections. A silence begins with the first request that stayed
//! unanswered and lasts until anything is received from the backend; then it is dropped, and the next one starts anew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::health::{FailReason, HealthOptions, ProbeOutcome, ProbeResult, TerminationBlocker};

/// Probes in a burst are 50 ms apart, or 10 ms and decided at once; this many starts outlast any decision.
const KEPT_STARTS: usize = 64;
/// If no other backend answered for so long after the first failure, this node itself was cut off. Other backends
/// are probed at once, and a round trip has a floor of 300 ms: this is beyond it.
const OUTAGE: Duration = Duration::from_millis(750);
/// An answer that took less was not sent again by any kernel (TCP_RTO_MIN): the path was open when it was sent.
/// A later one may have been sent during the outage, and got through after it by a retransmission.
const AT_ONCE: Duration = Duration::from_millis(200);

/// How much another backend was seen to do. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvidenceLevel {
    /// It answered a ping: the network path works, and its process runs.
    Alive,
    /// It answered `/readyz`.
    AnswersReadyz,
    /// It did so on a fresh connection, with a certificate that was verified now.
    CompletesHandshake,
}

impl EvidenceLevel {
    /// What a probe saw; `None` if it failed.
    pub fn of(probe: &ProbeResult) -> Option<Self> {
        match probe.outcome {
            ProbeOutcome::Alive => Some(Self::Alive),
            ProbeOutcome::Ready | ProbeOutcome::Unready if probe.handshake.is_some() => {
                Some(Self::CompletesHandshake)
            }
            ProbeOutcome::Ready | ProbeOutcome::Unready => Some(Self::AnswersReadyz),
            ProbeOutcome::Failed(_) => None,
        }
    }

    /// What a witness must do against a backend that fails like this: what this one cannot. A PONG is
    /// enough against one that no handshake and no ping gets through to, and against no other. A connection that was
    /// open before says nothing of certificates: with a wrong clock, or after a change of the CA, all go on there.
    fn required_against(reason: Option<FailReason>) -> Self {
        use FailReason as Why;
        match reason {
            None | Some(Why::Refused | Why::Timeout | Why::Unreachable) => Self::Alive,
            Some(Why::Reset | Why::Protocol) => Self::AnswersReadyz,
            Some(Why::Tls | Why::BadCertificate) => Self::CompletesHandshake,
        }
    }
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub(super) struct FailureRun {
    /// When the first failure, or the first sign of one, was noticed.
    pub since: Instant,
    /// Why the latest probe failed; `None` while there is only a sign.
    pub reason: Option<FailReason>,
    /// Failed probes, without bound.
    pub failures: u32,
    starts: VecDeque<Instant>,
    /// Since when another backend was first seen to do this, or more, by [`EvidenceLevel`].
    first: [Option<Instant>; 3],
    /// When the last probe began that saw so.
    last: [Option<Instant>; 3],
    proven: bool,
}

impl FailureRun {
    pub fn new(since: Instant) -> Self {
        let (first, last) = Default::default();
        Self { since, reason: None, failures: 0, starts: VecDeque::new(), first, last, proven: false }
    }

    /// A probe that began at `started` failed, or is overdue, or both, one after the other.
    pub fn failed(&mut self, started: Instant, reason: FailReason) {
        self.reason = Some(reason);
        if self.starts.contains(&started) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.starts.len() == KEPT_STARTS {
            self.starts.pop_front();
        }
        self.starts.push_back(started);
    }

    /// A probe of another backend reached this level.
    pub fn witnessed(&mut self, probe: &ProbeResult, level: EvidenceLevel) {
        if probe.started >= self.since {
            let took = probe.finished.saturating_duration_since(probe.started);
            let from = if took < AT_ONCE { probe.started } else { probe.finished };
            for first in &mut self.first[..=level as usize] {
                *first = Some(first.map_or(from, |first| first.min(from)));
            }
            for last in &mut self.last[..=level as usize] {
                *last = (*last).max(Some(probe.started));
            }
        }
    }

    /// What a witness must do.
    pub fn needs(&self) -> EvidenceLevel {
        EvidenceLevel::required_against(self.reason)
    }

    fn witness(&self) -> Option<Instant> {
        self.first[self.needs() as usize]
    }

    /// When the probe began that completed `fall` failures after the first witness.
    fn complete(&self, fall: u32) -> Option<Instant> {
        let witness = self.witness()?;
        let mut starts: Vec<Instant> =
            self.starts.iter().copied().filter(|start| *start >= witness).collect();
        starts.sort_unstable();
        starts.get(usize::try_from(fall).ok()?.checked_sub(1)?).copied()
    }

    /// From when on a probe of another backend must begin to bear witness, if one must. There must be one before the
    /// failures and one after: a backend that answered a moment earlier may have failed for the same reason.
    pub fn lacks(&self, fall: u32) -> Option<Instant> {
        if self.proven {
            return None;
        }
        if self.witness().is_none() {
            return Some(self.since);
        }
        self.complete(fall).filter(|complete| self.last[self.needs() as usize] < Some(*complete))
    }

    /// Whether `fall` probes failed between two witnesses; once is enough.
    pub fn is_proven(&mut self, fall: u32) -> bool {
        self.proven |= self.complete(fall).is_some() && self.lacks(fall).is_none();
        self.proven
    }

    /// Whether a witness answered so soon that this node was not cut off: a backend that comes back a moment later
    /// than another one after an outage of this node did not flap.
    pub fn is_backend_fault(&self) -> bool {
        self.witness().is_some_and(|witness| witness.duration_since(self.since) <= OUTAGE)
    }

    /// Whether it fails by not responding, and not by an invalid response.
    pub fn is_silent(&self) -> bool {
        matches!(self.reason, None | Some(FailReason::Timeout | FailReason::Unreachable))
    }
}

/// Another backend that first answers so long after the silence began did not see its beginning: this node was cut off, too.
/// Others are probed at once, and a request is overdue after 300 ms at the earliest.
const BEGIN: Duration = Duration::from_secs(1);
/// Others are probed each second while one is silent. If none answered for so long, this node was cut off meanwhile.
const GAP: Duration = Duration::from_millis(2500);
/// A connection attempt counts if it stayed unanswered for so long: a SYN is sent again after 1 s (RFC 6298), and a
/// neighbour whose address is not known yet is resolved within that, or solicited again (`retrans_time_ms`).
const UNANSWERED: Duration = Duration::from_secs(1);
/// Between two connection attempts, if none are due anyway: each second, with ten percent jitter.
const AGAIN: Duration = Duration::from_millis(1200);
/// The same where TCP was established: a process that stands still finds each of them when it goes on, and has to answer it.
const AGAIN_CONNECTED: Duration = Duration::from_millis(2500);
/// The last connection attempt before termination begins so long before it, at the earliest: it has time to stay unanswered.
const LAST: Duration = Duration::from_millis(1500);
/// Rounds in which clients' connections were challenged: what is lost in three of them, a second apart, on five
/// connections each, was not lost by chance.
const ROUNDS: usize = 3;
/// How long the answers of a round may take.
const ROUND: Duration = Duration::from_millis(500);
/// Dials and handshakes that are remembered.
const KEPT_SAMPLES: usize = 16;

/// The result of challenging clients' own connections to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeOutcome {
    /// There is none.
    NoFlows,
    /// There is none but the daemon's own, which was challenged.
    OnlyOwn,
    /// Some were challenged.
    Sent,
    /// They could not be.
    Impossible,
}

/// A connection attempt that is not answered.
#[derive(Clone, Copy, Debug)]
struct UnansweredConnect {
    began: Instant,
    /// A SYN-ACK came: its host is alive.
    connected: bool,
}

/// One silence of one backend.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    /// When the first request was sent that stayed unanswered.
    pub since: Instant,
    /// When something was last received from it before that.
    last_heard: Instant,
    /// From 0 up to, not including, 1: which part of the spread this node waits.
    chance: f64,
    connects: VecDeque<UnansweredConnect>,
    /// Since when witnesses have been answering without a gap, and when one answered last.
    witnessed: Option<(Instant, Instant)>,
    /// When fresh handshakes with witnesses were completed.
    handshakes: VecDeque<Instant>,
    /// Since when all that arrives from the backend is seen.
    watched_since: Option<Instant>,
    /// When data arrived from it last, and a segment of any kind.
    last_data: Option<Instant>,
    last_segment: Option<Instant>,
    /// When the latest challenge of clients' connections began; the result of the latest one, and when it ended; when those
    /// that were sent were.
    challenge_began: Option<Instant>,
    challenged: Option<(Instant, ChallengeOutcome)>,
    sent: VecDeque<Instant>,
}

impl Silence {
    pub fn new(since: Instant, last_heard: Instant, chance: f64) -> Self {
        Self {
            since,
            last_heard,
            chance,
            connects: VecDeque::new(),
            witnessed: None,
            handshakes: VecDeque::new(),
            watched_since: None,
            last_data: None,
            last_segment: None,
            challenge_began: None,
            challenged: None,
            sent: VecDeque::new(),
        }
    }

    /// This process did not run for a while: what others did meanwhile is not known.
    pub fn restart(&mut self, now: Instant) {
        let watched_since = self.watched_since.map(|_| now);
        *self = Self { watched_since, ..Self::new(now, now, self.chance) };
    }

    /// A connection attempt that began then is overdue, or was aborted.
    pub fn unanswered(&mut self, began: Instant, connected: bool) {
        match self.connects.iter_mut().find(|connect| connect.began == began) {
            Some(connect) => connect.connected |= connected,
            None => remember(&mut self.connects, UnansweredConnect { began, connected }),
        }
    }

    /// A witness, reached over the same network path, answered.
    pub fn witness_answered(&mut self, at: Instant) {
        let from = match self.witnessed {
            Some((from, last)) if at.saturating_duration_since(last) <= GAP => from,
            None if at.saturating_duration_since(self.since) <= BEGIN => self.since,
            _ => at,
        };
        self.witnessed = Some((from, at.max(self.witnessed.map_or(at, |(_, last)| last))));
    }

    /// A fresh handshake with a witness was completed.
    pub fn witness_completed_handshake(&mut self, at: Instant) {
        if at >= self.since {
            remember(&mut self.handshakes, at);
        }
    }

    /// Whether the one fresh handshake with another backend that is needed is still missing.
    pub fn lacks_handshake(&self) -> bool {
        let from = self.witnessed.map_or(self.since, |(from, _)| from);
        !self.handshakes.iter().any(|at| *at >= from)
    }

    /// From when on a connection attempt is due: after a fresh handshake with another backend, then each second, and
    /// once more shortly before the end. Where TCP was established there are few attempts otherwise, and what two of
    /// them wait for may have been lost.
    pub fn wants_connect_after(&self, now: Instant, options: &HealthOptions) -> Option<Instant> {
        let from = self.witnessed.map_or(self.since, |(from, _)| from);
        let witness = self.handshakes.iter().copied().find(|at| *at >= from)?;
        let pause = if self.host_answers_syn() { AGAIN_CONNECTED } else { AGAIN };
        let latest = self.connects.iter().map(|connect| connect.began).max();
        let next = latest.map(|began| began + pause).filter(|_| now < self.since + options.silence_timeout);
        let wanted = [Some(witness), next, Some(self.last_connect_from(options))];
        wanted.into_iter().flatten().filter(|at| *at <= now && latest < Some(*at)).max()
    }

    fn last_connect_from(&self, options: &HealthOptions) -> Instant {
        self.since + options.silence_timeout.saturating_sub(LAST)
    }

    /// All that arrives from the backend is seen from now on, or no longer.
    pub fn watching(&mut self, since: Option<Instant>) {
        self.watched_since = since;
    }

    /// A segment arrived from the backend on some client's connection.
    pub fn heard(&mut self, at: Instant, data: bool) {
        self.last_segment = self.last_segment.max(Some(at));
        if data {
            self.last_data = self.last_data.max(Some(at));
        }
    }

    /// Clients' connections are being challenged.
    pub fn challenge_started(&mut self, at: Instant) {
        self.challenge_began = Some(at);
    }

    /// Clients' connections were challenged.
    pub fn challenge_finished(&mut self, at: Instant, found: ChallengeOutcome) {
        if matches!(found, ChallengeOutcome::Sent | ChallengeOutcome::OnlyOwn) {
            remember(&mut self.sent, at);
        }
        self.challenged = Some((at, found));
    }

    /// When the latest challenge began.
    pub fn last_challenge(&self) -> Option<Instant> {
        self.challenge_began
    }

    /// Whether its host still answered the latest SYN.
    pub fn host_answers_syn(&self) -> bool {
        self.connects.iter().max_by_key(|connect| connect.began).is_some_and(|connect| connect.connected)
    }

    /// From when on this node may end flows, if nothing changes. The spread counts from the last sign of life: where
    /// requests are a second apart, nodes that probe at different times are spread already, and more would be late.
    pub fn due(&self, options: &HealthOptions) -> Instant {
        let spread = self.last_heard + options.reset_jitter.mul_f64(self.chance);
        self.since.max(spread) + options.silence_timeout
    }

    /// When the verdict may be another one without anything that happens.
    pub fn next_decision(&self, now: Instant, options: &HealthOptions) -> Option<Instant> {
        let witnessed = self.witnessed.map(|(from, _)| from);
        let over = [witnessed, self.watched_since, self.last_data, self.last_segment].into_iter().flatten();
        let over = over.map(|from| from + options.silence_timeout);
        over.chain([self.due(options)]).filter(|at| *at > now).min()
    }

    /// Whether the backend is proven dead, and if not, what is missing.
    pub fn verdict(&self, now: Instant, options: &HealthOptions) -> Result<(), TerminationBlocker> {
        let over = |from: Instant| now.saturating_duration_since(from) >= options.silence_timeout;
        let Some((witnessed, last)) = self.witnessed else { return Err(TerminationBlocker::NoWitness) };
        if now.saturating_duration_since(last) > GAP || !over(witnessed) {
            return Err(TerminationBlocker::NoWitness);
        }
        let Some(witness) = self.handshakes.iter().copied().find(|at| *at >= witnessed) else {
            return Err(TerminationBlocker::NoWitness);
        };
        let from = witness.max(self.last_connect_from(options));
        let counts = |connect: &&UnansweredConnect| {
            connect.began >= from && now.saturating_duration_since(connect.began) >= UNANSWERED
        };
        let Some(connect) = self.connects.iter().filter(counts).max_by_key(|connect| connect.began) else {
            return Err(TerminationBlocker::NoWitness);
        };
        if self.last_data.is_some_and(|at| !over(at)) {
            return Err(TerminationBlocker::DataArriving);
        }
        if !self.watched_since.is_some_and(over) {
            return Err(TerminationBlocker::NotObserved);
        }
        if connect.connected {
            return Ok(());
        }
        if self.last_segment.is_some_and(|at| !over(at)) {
            return Err(TerminationBlocker::OwnDialsBlocked);
        }
        // The round that is under way takes nothing from those before it.
        let rounds = self.sent.iter().filter(|at| now.saturating_duration_since(**at) >= ROUND).count();
        match self.challenged {
            Some((_, ChallengeOutcome::NoFlows)) => Ok(()),
            Some((_, ChallengeOutcome::Sent | ChallengeOutcome::OnlyOwn)) if rounds >= ROUNDS => Ok(()),
            _ => Err(TerminationBlocker::NotObserved),
        }
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= KEPT_SAMPLES {
        list.pop_front();
    }
    list.push_back(item);
}
