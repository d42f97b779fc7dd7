//! What is known of each backend, noted as it happens and without the code that decides.

use super::{Asked, FailReason, Op, Outcome};

/// Nothing is ended before so many milliseconds of silence.
const TIMEOUT: u64 = 5000;
const SECOND: u64 = 1000;

#[derive(Default)]
struct One {
    /// When it was heard last.
    life: u64,
    /// The first question that is unanswered, whenever it was asked.
    question: Option<u64>,
    dials: Vec<(u64, bool)>,
    handshakes: Vec<u64>,
    data: Option<u64>,
    segment: Option<u64>,
    watched: Option<u64>,
    sent: Vec<u64>,
    asked: Option<Asked>,
}

/// The account of three.
#[derive(Default)]
pub struct Account {
    of: [One; 3],
    /// When something happened last, and since when there was no pause of more than a second.
    last: u64,
    awake: u64,
}

impl Account {
    /// Whether it shows that the backend, or its host, lives.
    pub fn is_life(&self, op: Op) -> bool {
        match op {
            Op::Probe { outcome: Outcome::Failed(reason), .. } => {
                !matches!(reason, FailReason::Timeout | FailReason::Unreachable)
            }
            Op::Probe { .. } | Op::Hands { .. } | Op::Host | Op::Arrived { data: true } => true,
            _ => false,
        }
    }

    pub fn note(&mut self, who: usize, now: u64, op: Op) {
        if now > self.last + SECOND {
            self.awake = now;
        }
        self.last = now;
        let is_life = self.is_life(op);
        let one = &mut self.of[who];
        match op {
            Op::Overdue { asked } => one.asks(asked),
            Op::Dial { began, connected } => {
                one.asks(began);
                one.dials.push((began, connected));
            }
            Op::Probe { started, .. } if !is_life => {
                one.asks(started);
                one.dials.push((started, false));
            }
            Op::Hands { local: false } => one.handshakes.push(now),
            Op::Arrived { data } => {
                one.segment = Some(now);
                one.data = data.then_some(now).or(one.data);
            }
            Op::Asked(found) => {
                one.asked = Some(found);
                if found == Asked::Sent {
                    one.sent.push(now);
                }
            }
            Op::Watched(watched) => one.watched = watched.then_some(now),
            _ => {}
        }
        if is_life && !matches!(op, Op::Arrived { .. }) {
            one.life = now;
            one.question = None;
        }
    }

    /// Whether everything speaks for the end of `who`; those that are `near` may bear witness.
    pub fn proofs(&self, who: usize, near: [bool; 3], now: u64) -> Result<(), &'static str> {
        let one = &self.of[who];
        let over = |from: u64| now - from >= TIMEOUT;
        let since = one.question.ok_or("a question")?.max(one.life);
        if !over(since) {
            return Err("five seconds of silence");
        }
        if !over(self.awake) {
            return Err("a daemon that was awake");
        }
        let others = self.of.iter().zip(near).filter(|(_, near)| *near);
        let witness = others.flat_map(|(other, _)| &other.handshakes).filter(|at| **at >= since).min();
        let witness = *witness.ok_or("a fresh handshake with another one")?;
        let dials = one.dials.iter().filter(|(began, _)| *began >= witness && now - began >= SECOND);
        let last = dials.map(|(began, _)| *began).max().ok_or("a dial after the witness")?;
        if one.data.is_some_and(|at| !over(at)) {
            return Err("silence of the data");
        }
        if !one.watched.is_some_and(over) {
            return Err("a view of clients' connections all the time");
        }
        if one.dials.iter().any(|(began, connected)| *began == last && *connected) {
            return Ok(());
        }
        if one.segment.is_some_and(|at| !over(at)) {
            return Err("silence of the host");
        }
        match one.asked {
            Some(Asked::NoFlows) => Ok(()),
            Some(Asked::Sent) if one.sent.iter().filter(|at| **at >= since).count() >= 3 => Ok(()),
            _ => Err("clients' connections that were asked three times"),
        }
    }
}

impl One {
    fn asks(&mut self, at: u64) {
        self.question = Some(self.question.map_or(at, |first| first.min(at)));
    }
}
