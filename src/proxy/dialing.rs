//! When which backend is dialled for one client. Pure: what happened and what time it is come in, the next step goes
//! out.
//!
//! The first is dialled at once, and the next as soon as one fails or nothing has connected for [`HEDGE`]. Who
//! connects first wins, which is not seen here: then nobody asks for a step any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::types::Backend;

/// So long the others wait for one that does not answer. No round trip within a cluster is as long, and a client does
/// not mind; less than the second after which a lost SYN is repeated.
pub(super) const HEDGE: Duration = Duration::from_millis(250);
/// So long one may take: SYNs sent after 0, 1 and 3 s were all lost. Then it is dialled again after the others, whose turn it is.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);
/// So long a client may wait: common clients give a connection up after 10 to 30 s, and shall see a reset before.
pub(super) const WHOLE: Duration = Duration::from_secs(15);
/// So long nothing is dialled after this node itself lacked something.
const RETRY: Duration = Duration::from_millis(50);
/// So long one is not dialled to which the network said that there is no way: it may be back in a moment.
const NO_WAY: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Start this dial; `hedge` when others are under way.
    Dial { backend: Backend, hedge: bool },
    /// Stop this dial: it had its time.
    Abandon(Backend),
    /// Nothing before this instant, unless something happens.
    Wait(Instant),
    /// Nobody is left, or the time is over.
    GiveUp,
}

/// The dials for one client.
#[derive(Debug)]
pub(super) struct Dialing {
    /// In their order, with the instants before which they are not dialled.
    waiting: VecDeque<(Backend, Instant)>,
    /// With the instants until which they may take.
    flying: Vec<(Backend, Instant)>,
    next_at: Instant,
    end: Instant,
}

impl Dialing {
    pub(super) fn new(order: Vec<Backend>, now: Instant) -> Self {
        let waiting = order.into_iter().map(|backend| (backend, now)).collect();
        Self { waiting, flying: Vec::new(), next_at: now, end: now + WHOLE }
    }

    /// The next step; to be asked for again after each but [`Step::Wait`].
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if now >= self.end || (self.waiting.is_empty() && self.flying.is_empty()) {
            return Step::GiveUp;
        }
        if let Some((late, _)) = self.flying.iter().find(|(_, until)| *until <= now).copied() {
            self.put_back(late, now);
            self.next_at = now;
            return Step::Abandon(late);
        }
        if now >= self.next_at
            && let Some(at) = self.waiting.iter().position(|(_, not_before)| *not_before <= now)
            && let Some((backend, _)) = self.waiting.remove(at)
        {
            let hedge = !self.flying.is_empty();
            self.flying.push((backend, now + ATTEMPT));
            self.next_at = now + HEDGE;
            return Step::Dial { backend, hedge };
        }
        let next = self.waiting.iter().map(|(_, not_before)| (*not_before).max(self.next_at));
        let limits = self.flying.iter().map(|(_, until)| *until);
        Step::Wait(limits.chain(next).fold(self.end, Instant::min))
    }

    /// This dial failed: the next one starts at once.
    pub(super) fn failed(&mut self, backend: Backend, now: Instant) {
        self.flying.retain(|(other, _)| *other != backend);
        self.next_at = now;
    }

    /// This dial found no way to the backend, which is silence and no refusal: the next one starts at once, and this one is tried
    /// again later.
    pub(super) fn unreachable(&mut self, backend: Backend, now: Instant) {
        self.put_back(backend, now + NO_WAY);
        self.next_at = now;
    }

    /// This dial could not be made, for reasons that are not the backend's: it is tried again after the others.
    pub(super) fn hampered(&mut self, backend: Backend, now: Instant) {
        self.put_back(backend, now);
        self.next_at = now + RETRY;
    }

    fn put_back(&mut self, backend: Backend, not_before: Instant) {
        self.flying.retain(|(other, _)| *other != backend);
        self.waiting.push_back((backend, not_before));
    }
}

#[cfg(test)]
mod tests;
