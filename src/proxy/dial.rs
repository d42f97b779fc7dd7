//! Finds the backend of one client: does what [`Dialing`] says.
//!
//! In: the order, news of backends that go down. Out: a connection, or none; failures on the way are reported.

use std::future::poll_fn;
use std::net::TcpStream;
use std::task::{Context, Poll};

use rustix::event::PollFlags;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};

use super::attempt::Attempt;
use super::dialing::{Dialing, Step};
use super::shared::{Ending, Shared};
use super::socket;
use super::stats::DialFailure;
use crate::model::types::Backend;

struct Dial<'a> {
    shared: &'a Shared,
    plan: Dialing,
    flying: Vec<Attempt>,
}

/// Why a client has no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// Nobody could be reached in time.
    NoBackend,
    /// The client has left meanwhile.
    Left,
}

/// Who was reached first.
pub(super) async fn dial(
    shared: &Shared,
    order: Vec<Backend>,
    downstream: &TcpStream,
) -> Result<(Backend, TcpStream), Unserved> {
    let mut endings = shared.endings.subscribe();
    let mut dial = Dial { shared, plan: Dialing::new(order, Instant::now().into_std()), flying: Vec::new() };
    loop {
        let until = dial.start_what_is_due().ok_or(Unserved::NoBackend)?;
        // What has happened comes before what is overdue: after a pause of this process all timers are over.
        tokio::select! {
            biased;
            ending = endings.recv() => dial.end(ending),
            winner = poll_fn(|cx| dial.poll_landed(cx)) => {
                if let Some(winner) = winner {
                    return Ok(winner);
                }
            }
            () = sleep_until(until) => {}
        }
        // No further dial for one who has left; the first usually succeeds, and needs no question.
        if has_left(downstream) {
            return Err(Unserved::Left);
        }
    }
}

impl Dial<'_> {
    /// Until when nothing is due; `None`: nobody is left to dial.
    fn start_what_is_due(&mut self) -> Option<Instant> {
        loop {
            let now = Instant::now();
            match self.plan.step(now.into_std()) {
                Step::Wait(until) => return Some(Instant::from_std(until)),
                Step::GiveUp => return None,
                Step::Abandon(backend) => {
                    self.flying.retain(|attempt| attempt.backend() != backend);
                    self.report(backend, DialFailure::TimedOut);
                }
                Step::Dial { backend, hedge } => {
                    if hedge {
                        self.shared.stats.count_hedged();
                    }
                    match Attempt::start(backend) {
                        Ok(attempt) => self.flying.push(attempt),
                        Err(reason) => self.failed(backend, reason),
                    }
                }
            }
        }
    }

    /// Ready when a dial came to an end, with its connection if there is one.
    fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Backend, TcpStream)>> {
        for at in 0..self.flying.len() {
            let Poll::Ready(result) = self.flying[at].poll(cx) else { continue };
            let attempt = self.flying.swap_remove(at);
            let backend = attempt.backend();
            let connected = result.and_then(|()| attempt.into_stream().map_err(|_| DialFailure::Other));
            return Poll::Ready(match connected {
                Ok(stream) => Some((backend, stream)),
                Err(reason) => {
                    self.failed(backend, reason);
                    None
                }
            });
        }
        Poll::Pending
    }

    fn end(&mut self, ending: Result<Ending, RecvError>) {
        // Too many at once to know them all: then none of the dials under way is trusted.
        let ended = |backend: &Backend| ending.as_ref().map_or(true, |ending| ending.contains(backend));
        let (over, flying) = std::mem::take(&mut self.flying).into_iter().partition(|a| ended(&a.backend()));
        self.flying = flying;
        for attempt in over as Vec<Attempt> {
            self.failed(attempt.backend(), DialFailure::Ended);
        }
    }

    fn failed(&mut self, backend: Backend, reason: DialFailure) {
        let now = Instant::now().into_std();
        match reason {
            DialFailure::Local => self.plan.hampered(backend, now),
            DialFailure::Unreachable | DialFailure::TimedOut => self.plan.unreachable(backend, now),
            _ => self.plan.failed(backend, now),
        }
        self.report(backend, reason);
    }

    fn report(&self, backend: Backend, reason: DialFailure) {
        self.shared.stats.count_dial_failure(reason);
        // That it went down is known to who said so.
        if !matches!(reason, DialFailure::Local | DialFailure::Ended) {
            // Nobody listens when the daemon is about to end.
            let _ = self.shared.dial_failures.send(backend);
        }
    }
}

/// Whether it was reset.
fn has_left(client: &TcpStream) -> bool {
    !socket::state(client, PollFlags::empty()).is_empty()
}

/// As many sets of ended backends may be on their way to a dial.
pub(super) fn endings() -> broadcast::Sender<Ending> {
    broadcast::channel(16).0
}
