//! The evidence that a silent backend is gone. Pure.
//!
//! In: questions that stay unanswered, what others answer meanwhile, what clients' own connections show. Out: whether its flows
//! may be ended, or what is missing. It begins with the first question that stayed unanswered and lasts until anything is heard
//! of the backend; then it is dropped, and the next one starts anew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Asked;
use crate::model::health::{HealthOptions, Withheld};

/// Another backend that first answers so long after the silence began did not see its beginning: this node was cut off, too.
/// Others are asked at once, and a question is overdue after 300 ms at the earliest.
const BEGIN: Duration = Duration::from_secs(1);
/// Others are asked each second while one is silent. If none answered for so long, this node was cut off meanwhile.
const GAP: Duration = Duration::from_millis(2500);
/// A dial counts if it stayed unanswered for so long: a SYN is sent again after 1 s (RFC 6298), and a neighbour whose address is
/// not known yet is found within that, or asked for again (`retrans_time_ms`).
const UNANSWERED: Duration = Duration::from_secs(1);
/// Between two dials, if they do not come by themselves: each second, give or take a tenth.
const AGAIN: Duration = Duration::from_millis(1200);
/// The same where TCP came about: a process that stands still finds each of them when it goes on, and has to answer it.
const AGAIN_CONNECTED: Duration = Duration::from_millis(2500);
/// The last dial before the end begins so long before it, at the earliest: it has time to stay unanswered.
const LAST: Duration = Duration::from_millis(1500);
/// Rounds in which clients' connections were asked: what is lost in three of them, a second apart, on five connections each, was
/// not lost by chance.
const ROUNDS: usize = 3;
/// How long the answers of a round may take.
const ROUND: Duration = Duration::from_millis(500);
/// Dials and handshakes that are remembered.
const KEPT: usize = 16;

/// A dial that is not answered.
#[derive(Clone, Copy, Debug)]
struct Dial {
    began: Instant,
    /// A SYN-ACK came: its host lives.
    connected: bool,
}

/// One silence of one backend.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    /// The first question that stayed unanswered.
    pub since: Instant,
    /// When it was heard last, before.
    life: Instant,
    /// From 0 up to, not including, 1: which part of the spread this node waits.
    chance: f64,
    dials: VecDeque<Dial>,
    /// Since when near ones have been answering without a gap, and when one answered last.
    clear: Option<(Instant, Instant)>,
    /// When fresh handshakes with near ones were complete.
    handshakes: VecDeque<Instant>,
    /// Since when all that arrives from the backend is seen.
    observed: Option<Instant>,
    /// When data arrived from it last, and a segment of any kind.
    data: Option<Instant>,
    segment: Option<Instant>,
    /// When the latest round of asking on clients' connections began; what came of the latest one, and when it was over; when those
    /// that were sent were.
    begun: Option<Instant>,
    asked: Option<(Instant, Asked)>,
    sent: VecDeque<Instant>,
}

impl Silence {
    pub fn new(since: Instant, life: Instant, chance: f64) -> Self {
        Self {
            since,
            life,
            chance,
            dials: VecDeque::new(),
            clear: None,
            handshakes: VecDeque::new(),
            observed: None,
            data: None,
            segment: None,
            begun: None,
            asked: None,
            sent: VecDeque::new(),
        }
    }

    /// This process did not run for a while: what others did meanwhile is not known.
    pub fn restart(&mut self, now: Instant) {
        let observed = self.observed.map(|_| now);
        *self = Self { observed, ..Self::new(now, now, self.chance) };
    }

    /// A dial that began then is overdue, or was given up.
    pub fn unanswered(&mut self, began: Instant, connected: bool) {
        match self.dials.iter_mut().find(|dial| dial.began == began) {
            Some(dial) => dial.connected |= connected,
            None => remember(&mut self.dials, Dial { began, connected }),
        }
    }

    /// Another backend, near enough to say something of the way to this one, answered.
    pub fn witness_answered(&mut self, at: Instant) {
        let from = match self.clear {
            Some((from, last)) if at.saturating_duration_since(last) <= GAP => from,
            None if at.saturating_duration_since(self.since) <= BEGIN => self.since,
            _ => at,
        };
        self.clear = Some((from, at.max(self.clear.map_or(at, |(_, last)| last))));
    }

    /// A fresh handshake with such a one was complete.
    pub fn witness_shook_hands(&mut self, at: Instant) {
        if at >= self.since {
            remember(&mut self.handshakes, at);
        }
    }

    /// Whether the one fresh handshake with another backend that is needed is still missing.
    pub fn lacks_handshake(&self) -> bool {
        let from = self.clear.map_or(self.since, |(from, _)| from);
        !self.handshakes.iter().any(|at| *at >= from)
    }

    /// From when on a dial is due: after a fresh handshake with another backend, then each second, and once more shortly before the
    /// end. Where TCP came about there are few dials otherwise, and what two of them wait for may have been lost.
    pub fn wants_dial_after(&self, now: Instant, options: &HealthOptions) -> Option<Instant> {
        let from = self.clear.map_or(self.since, |(from, _)| from);
        let witness = self.handshakes.iter().copied().find(|at| *at >= from)?;
        let pause = if self.connects() { AGAIN_CONNECTED } else { AGAIN };
        let latest = self.dials.iter().map(|dial| dial.began).max();
        let next = latest.map(|began| began + pause).filter(|_| now < self.since + options.silence_timeout);
        let wanted = [Some(witness), next, Some(self.last_dial_from(options))];
        wanted.into_iter().flatten().filter(|at| *at <= now && latest < Some(*at)).max()
    }

    fn last_dial_from(&self, options: &HealthOptions) -> Instant {
        self.since + options.silence_timeout.saturating_sub(LAST)
    }

    /// All that arrives from the backend is seen from now on, or no longer.
    pub fn observed(&mut self, since: Option<Instant>) {
        self.observed = since;
    }

    /// A segment arrived from the backend on some client's connection.
    pub fn heard(&mut self, at: Instant, data: bool) {
        self.segment = self.segment.max(Some(at));
        if data {
            self.data = self.data.max(Some(at));
        }
    }

    /// Clients' connections are being asked.
    pub fn asking(&mut self, at: Instant) {
        self.begun = Some(at);
    }

    /// Clients' connections were asked.
    pub fn asked(&mut self, at: Instant, found: Asked) {
        if matches!(found, Asked::Sent | Asked::OnlyOwn) {
            remember(&mut self.sent, at);
        }
        self.asked = Some((at, found));
    }

    /// When the latest round of asking began.
    pub fn last_asked(&self) -> Option<Instant> {
        self.begun
    }

    /// Whether its host still completed TCP when it was dialled last.
    pub fn connects(&self) -> bool {
        self.dials.iter().max_by_key(|dial| dial.began).is_some_and(|dial| dial.connected)
    }

    /// From when on this node may end flows, if nothing changes. The spread counts from the last sign of life: where questions are
    /// a second apart, nodes that ask at different times are spread already, and more would be late.
    pub fn due(&self, options: &HealthOptions) -> Instant {
        let spread = self.life + options.kill_spread.mul_f64(self.chance);
        self.since.max(spread) + options.silence_timeout
    }

    /// When the verdict may be another one without anything that happens.
    pub fn next_decision(&self, now: Instant, options: &HealthOptions) -> Option<Instant> {
        let clear = self.clear.map(|(from, _)| from);
        let over = [clear, self.observed, self.data, self.segment].into_iter().flatten();
        let over = over.map(|from| from + options.silence_timeout);
        over.chain([self.due(options)]).filter(|at| *at > now).min()
    }

    /// Whether everything speaks for the backend's end, and if not, what does not.
    pub fn verdict(&self, now: Instant, options: &HealthOptions) -> Result<(), Withheld> {
        let over = |from: Instant| now.saturating_duration_since(from) >= options.silence_timeout;
        let Some((clear, last)) = self.clear else { return Err(Withheld::NoWitness) };
        if now.saturating_duration_since(last) > GAP || !over(clear) {
            return Err(Withheld::NoWitness);
        }
        let Some(witness) = self.handshakes.iter().copied().find(|at| *at >= clear) else {
            return Err(Withheld::NoWitness);
        };
        let from = witness.max(self.last_dial_from(options));
        let counts =
            |dial: &&Dial| dial.began >= from && now.saturating_duration_since(dial.began) >= UNANSWERED;
        let Some(dial) = self.dials.iter().filter(counts).max_by_key(|dial| dial.began) else {
            return Err(Withheld::NoWitness);
        };
        if self.data.is_some_and(|at| !over(at)) {
            return Err(Withheld::DataArrive);
        }
        if !self.observed.is_some_and(over) {
            return Err(Withheld::NotObserved);
        }
        if dial.connected {
            return Ok(());
        }
        if self.segment.is_some_and(|at| !over(at)) {
            return Err(Withheld::OwnDialsBlocked);
        }
        // The round that is under way takes nothing from those before it.
        let rounds = self.sent.iter().filter(|at| now.saturating_duration_since(**at) >= ROUND).count();
        match self.asked {
            Some((_, Asked::NoFlows)) => Ok(()),
            Some((_, Asked::Sent | Asked::OnlyOwn)) if rounds >= ROUNDS => Ok(()),
            _ => Err(Withheld::NotObserved),
        }
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= KEPT {
        list.pop_front();
    }
    list.push_back(item);
}
