//! The commands to the thread that works on orders, and what it has to check once more.
//!
//! In: commands of whoever holds the sender. Out: the next one, and whether one that waits cancels an order.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::challenge::ChallengeOutcome;
use crate::dataplane::flows::{FlowOrder, StaleFlows};
use crate::model::types::{Backend, Vip};

/// What limits the ending of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Flows challenged per second over all orders. A second's worth may go at once; the rest is spread, so that not all
    /// clients of a node dial at the same moment.
    pub rate: u32,
    /// How long to go on for one order.
    pub bound: Duration,
}

impl Default for FlowOptions {
    /// 5,000 is more than the pods of one node hold as a rule, so that they are reset at once, and 10,000 clients dial
    /// again over 1 s. 15 s are some 27 rounds: who did not answer by then will not.
    fn default() -> Self {
        Self { rate: 5000, bound: Duration::from_secs(15) }
    }
}

/// A command to the thread.
pub(super) enum Command {
    Start(FlowOrder),
    Cancel(Backend),
    /// The backend answers again: what is being opened to it is not rerouted any more.
    StopRerouting(Backend),
    DeleteStale(Vec<StaleFlows>),
    /// Challenges a backend on the path of its clients.
    Challenge(Backend, Vec<Vip>, oneshot::Sender<ChallengeOutcome>),
}

/// The commands, kept in order, and looked at while the thread works: a backend that is up again must not wait until a batch of
/// packets is out.
pub(super) struct CommandQueue {
    commands: Receiver<Command>,
    waiting: VecDeque<Command>,
}

impl CommandQueue {
    pub(super) fn new(commands: Receiver<Command>) -> Self {
        Self { commands, waiting: VecDeque::new() }
    }

    /// The next command, for which it waits until `due`, or for ever.
    pub(super) fn next(&mut self, due: Option<Instant>) -> Result<Command, RecvTimeoutError> {
        if let Some(command) = self.waiting.pop_front() {
            return Ok(command);
        }
        match due.map(|due| due.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => self.commands.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            Some(wait) => self.commands.recv_timeout(wait),
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Whether the order for `backend` is to stop.
    pub(super) fn cancels(&mut self, backend: Backend) -> bool {
        self.waiting.extend(self.commands.try_iter());
        self.waiting.iter().any(|command| matches!(command, Command::Cancel(other) if *other == backend))
    }
}

/// After how long conntrack is read again: a packet that was past the nat chains while the rules were exchanged enters
/// conntrack a moment after the first scan.
const AGAIN: Duration = Duration::from_secs(1);

/// What is checked a second time, and when.
#[derive(Default)]
pub(super) struct RecheckQueue(VecDeque<(Instant, Vec<StaleFlows>)>);

impl RecheckQueue {
    /// It was checked at `now`. What has ended by the second time belongs to later connections.
    pub(super) fn schedule(&mut self, stale: Vec<StaleFlows>, now: Instant) {
        let unanswered = stale.into_iter().map(|stale| StaleFlows { ended: false, ..stale });
        self.0.push_back((now + AGAIN, unanswered.collect()));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.front().map(|(due, _)| *due)
    }

    /// What is due at `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<StaleFlows>> {
        self.due().filter(|due| *due <= now)?;
        self.0.pop_front().map(|(_, stale)| stale)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn waiting_cancellation_is_seen_early_and_taken_in_order() {
        let (sender, receiver) = channel();
        let mut queue = CommandQueue::new(receiver);
        let (one, two): (Backend, Backend) =
            ("192.0.2.11:6443".parse().unwrap(), "192.0.2.12:6443".parse().unwrap());
        assert!(!queue.cancels(one));
        sender.send(Command::DeleteStale(Vec::new())).unwrap();
        sender.send(Command::Cancel(one)).unwrap();
        assert!(queue.cancels(one) && !queue.cancels(two));
        sender.send(Command::Cancel(two)).unwrap();
        drop(sender);
        assert!(matches!(queue.next(None), Ok(Command::DeleteStale(_))));
        assert!(matches!(queue.next(None), Ok(Command::Cancel(backend)) if backend == one));
        assert!(matches!(queue.next(Some(Instant::now())), Ok(Command::Cancel(backend)) if backend == two));
        assert!(matches!(queue.next(Some(Instant::now())), Err(RecvTimeoutError::Disconnected)));
    }

    #[test]
    fn next_times_out_without_a_command() {
        let (_sender, receiver) = channel();
        let mut queue = CommandQueue::new(receiver);
        for wait in [0, 5] {
            let due = Instant::now() + Duration::from_millis(wait);
            assert!(matches!(queue.next(Some(due)), Err(RecvTimeoutError::Timeout)));
        }
    }

    #[test]
    fn stale_flows_are_rechecked_once_for_unanswered_entries() {
        let (mut rechecks, now) = (RecheckQueue::default(), Instant::now());
        assert!(rechecks.due().is_none() && rechecks.take(now).is_none());
        let vip = "10.96.0.1:443".parse().unwrap();
        rechecks.schedule(vec![StaleFlows { vip, backends: [].into(), ended: true }], now);
        assert_eq!(rechecks.due(), Some(now + AGAIN));
        assert!(rechecks.take(now).is_none(), "not at once");
        let second = rechecks.take(now + AGAIN).unwrap();
        assert_eq!((second.len(), second[0].ended), (1, false));
        assert!(rechecks.take(now + AGAIN).is_none(), "and not a third time");
    }
}
