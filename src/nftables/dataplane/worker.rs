//! The thread that owns the one long-lived socket: a commit can wait seconds for another program's, so it never runs on
//! the runtime's thread.
//!
//! In: requests, of which one waits at most. Out: an answer to each, unless its asker has given up by then: what it asked
//! for may no longer be what is wanted, so it does not happen any more.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{self, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::dataplane::DataplaneError;
use crate::model::types::Backend;
use crate::nftables::owner::Ownership;
use crate::nftables::reply::Observed;
use crate::nftables::socket::{NftError, NftSocket, Replaced, Standing};
use crate::nftables::table::Table;

/// The thread ends at once, unless it waits for another program's commit: then the kernel lets go of the socket later.
const RELEASE: Duration = Duration::from_millis(300);

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, NftError>>;

/// What the thread does.
pub(super) enum Request {
    Replace(Table, Ownership, Answer<Replaced>),
    Refresh(BTreeSet<Backend>, Answer<()>),
    Observe(Answer<Observed>),
    Verify(Answer<Standing>),
    Remove(Answer<bool>),
}

impl Request {
    /// Nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Replace(_, _, answer) => answer.is_closed(),
            Self::Refresh(_, answer) => answer.is_closed(),
            Self::Observe(answer) => answer.is_closed(),
            Self::Verify(answer) => answer.is_closed(),
            Self::Remove(answer) => answer.is_closed(),
        }
    }
}

/// The request that waits until the thread is free.
type Waiting = Arc<Mutex<Option<Request>>>;

/// The running thread. It ends when this is dropped, and the table has no owner from then on.
pub(super) struct Worker {
    waiting: Waiting,
    wake: mpsc::SyncSender<()>,
    /// The netlink port of its socket.
    pub port: u32,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Opens the socket in the current network namespace and starts its thread.
    pub fn start(ownership: Ownership) -> Result<Self, DataplaneError> {
        let socket = NftSocket::open()?.with(ownership);
        let port = socket.port();
        let mut socket = Some(socket);
        Self::spawn(port, move |request| socket = socket.take().map(|socket| serve(socket, request)))
    }

    /// Starts a thread that works on requests in this way.
    pub fn spawn(port: u32, mut serve: impl FnMut(Request) + Send + 'static) -> Result<Self, DataplaneError> {
        let waiting = Waiting::default();
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let (ends, ended) = oneshot::channel::<()>();
        let inbox = Arc::clone(&waiting);
        thread::Builder::new()
            .name("nftables".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                for () in woken {
                    let request = inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
                    // Seconds may have passed since it was asked for.
                    if let Some(request) = request.filter(|request| !request.is_abandoned()) {
                        serve(request);
                    }
                }
                drop(serve);
                drop(ends);
            })
            .map_err(DataplaneError::Worker)?;
        Ok(Self { waiting, wake, port, ended })
    }

    /// Takes the place of a request whose asker has given up.
    pub fn send(&self, request: Request) -> Result<(), DataplaneError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_some_and(|earlier| !earlier.is_abandoned()) {
            return Err(DataplaneError::Busy);
        }
        *waiting = Some(request);
        drop(waiting);
        match self.wake.try_send(()) {
            // It was woken already, and finds this request when it comes to look.
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => Err(gone()),
        }
    }

    /// Ends it, and waits until the socket is closed.
    pub async fn release(self) {
        drop(self.wake);
        // Either way the process is about to end, and the socket with it.
        let _ = timeout(RELEASE, self.ended).await;
    }
}

/// The thread has ended.
pub(super) fn gone() -> DataplaneError {
    DataplaneError::Worker(io::Error::from(io::ErrorKind::BrokenPipe))
}

/// The asker may give up waiting meanwhile; then nobody wants the answer.
fn serve(mut socket: NftSocket, request: Request) -> NftSocket {
    match request {
        Request::Replace(table, ownership, answer) => {
            socket = socket.with(ownership);
            drop(answer.send(socket.replace(&table)));
            // Whoever waits for the rules does not wait for this. Where it fails, the next look takes the table for
            // changed, and it is committed once more.
            if let Err(error) = socket.remember() {
                tracing::debug!(%error, "look at the table after a commit");
            }
        }
        Request::Refresh(dead, answer) => drop(answer.send(socket.refresh(&dead))),
        Request::Observe(answer) => drop(answer.send(socket.observe())),
        Request::Verify(answer) => drop(answer.send(socket.verify())),
        Request::Remove(answer) => drop(answer.send(socket.remove())),
    }
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that is in the kernel until the test lets it on, and what it did.
    fn stuck() -> (Worker, mpsc::Sender<()>, mpsc::Receiver<&'static str>) {
        let (done, did) = mpsc::channel();
        let (go_on, held) = mpsc::channel();
        let serve = move |request: Request| {
            let _ = held.recv();
            let _ = match request {
                Request::Verify(answer) => {
                    drop(answer.send(Ok(Standing::Stands)));
                    done.send("verify")
                }
                Request::Remove(answer) => {
                    drop(answer.send(Ok(true)));
                    done.send("remove")
                }
                Request::Replace(..) | Request::Refresh(..) | Request::Observe(_) => done.send("other"),
            };
        };
        (Worker::spawn(7, serve).unwrap(), go_on, did)
    }

    /// Waits until the thread has taken what was sent, and is in the kernel with it.
    fn taken(worker: &Worker) {
        while worker.waiting.lock().unwrap().is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn what_nobody_waits_for_any_more_does_not_happen() {
        let (worker, go_on, did) = stuck();
        let (answer, first) = oneshot::channel();
        worker.send(Request::Verify(answer)).unwrap();
        taken(&worker);
        let (answer, abandoned) = oneshot::channel();
        worker.send(Request::Observe(answer)).unwrap();
        drop(abandoned);
        let _ = go_on.send(());
        assert_eq!(first.blocking_recv().unwrap().unwrap(), Standing::Stands);
        taken(&worker);
        let (answer, last) = oneshot::channel();
        let _ = go_on.send(());
        worker.send(Request::Remove(answer)).unwrap();
        assert!(last.blocking_recv().unwrap().unwrap());
        assert_eq!(did.try_iter().collect::<Vec<_>>(), ["verify", "remove"]);
    }

    #[test]
    fn one_request_waits_and_more_are_turned_away() {
        let (worker, go_on, did) = stuck();
        let (answer, _first) = oneshot::channel();
        worker.send(Request::Verify(answer)).unwrap();
        taken(&worker);
        let (answer, waits) = oneshot::channel();
        worker.send(Request::Observe(answer)).unwrap();
        let (answer, _) = oneshot::channel();
        assert!(matches!(worker.send(Request::Verify(answer)), Err(DataplaneError::Busy)));
        // Who gave up makes room for who asks next.
        drop(waits);
        let (answer, last) = oneshot::channel();
        worker.send(Request::Remove(answer)).unwrap();
        let _ = (go_on.send(()), go_on.send(()));
        assert!(last.blocking_recv().unwrap().unwrap());
        assert_eq!(did.try_iter().collect::<Vec<_>>(), ["verify", "remove"]);
    }
}
