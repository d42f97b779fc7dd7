//! What the thread that works on orders is told, kept in order, and looked at while it works.
//!
//! In: commands of whoever holds the sender. Out: the next one, and whether one that waits cancels an order: a backend
//! that is up again must not wait until a batch of packets is out.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Asked, FlowOrder, Stale};
use crate::model::types::{Backend, Vip};

/// What the thread is told.
pub(super) enum Command {
    Start(FlowOrder),
    Cancel(Backend),
    /// The backend was heard again: what is being opened to it is not moved any more.
    Settle(Backend),
    Forget(Vec<Stale>),
    /// Asks a backend by the way of its clients.
    Ask(Backend, Vec<Vip>, oneshot::Sender<Asked>),
}

/// See the module.
pub(super) struct Inbox {
    commands: Receiver<Command>,
    waiting: VecDeque<Command>,
}

impl Inbox {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_cancellation_is_seen_early_and_taken_in_its_turn() {
        let (sender, receiver) = channel();
        let mut inbox = Inbox::new(receiver);
        let (one, two): (Backend, Backend) =
            ("192.0.2.11:6443".parse().unwrap(), "192.0.2.12:6443".parse().unwrap());
        assert!(!inbox.cancels(one));
        sender.send(Command::Forget(Vec::new())).unwrap();
        sender.send(Command::Cancel(one)).unwrap();
        assert!(inbox.cancels(one) && !inbox.cancels(two));
        sender.send(Command::Cancel(two)).unwrap();
        drop(sender);
        assert!(matches!(inbox.next(None), Ok(Command::Forget(_))));
        assert!(matches!(inbox.next(None), Ok(Command::Cancel(backend)) if backend == one));
        assert!(matches!(inbox.next(Some(Instant::now())), Ok(Command::Cancel(backend)) if backend == two));
        assert!(matches!(inbox.next(Some(Instant::now())), Err(RecvTimeoutError::Disconnected)));
    }

    #[test]
    fn without_a_command_it_is_time() {
        let (_sender, receiver) = channel();
        let mut inbox = Inbox::new(receiver);
        for wait in [0, 5] {
            let due = Instant::now() + Duration::from_millis(wait);
            assert!(matches!(inbox.next(Some(due)), Err(RecvTimeoutError::Timeout)));
        }
    }
}
