//! The nf_tables dataplane: the thread that owns the one long-lived socket, and its client.
//!
//! In: desired states. Out: what came of each, and [`Drift`] where the table no longer stands. A commit can wait seconds for
//! another program's, so it never runs on the runtime's thread. Of the requests to the thread one waits at most, and each is
//! answered, unless the caller has given up by then: what was requested may no longer be what is wanted, so it does not
//! happen any more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::sync::mpsc::{self, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::decode::ObservedTable;
use super::socket::{NftError, NftSocket, Replacement, TableState};
use super::table::{Ownership, Table};
use super::watch::TableWatch;
use super::{build, names};
use crate::dataplane::{Applied, Dataplane, DataplaneError, Drift};
use crate::model::desired::DesiredState;
use crate::model::types::Backend;

/// Measured: a commit waits up to 8 s while another program reloads the rules of 5,000 Services.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A verification that failed is tried again after this.
const VERIFY_RETRY: Duration = Duration::from_millis(200);

/// The thread ends at once, unless it waits for another program's commit: then the kernel lets go of the socket later.
const RELEASE: Duration = Duration::from_millis(300);

/// A refused transaction costs half a millisecond, and who waits for the rules waits for it, too.
const AGAIN: Duration = Duration::from_secs(60 * 60);

/// The dataplane of nodes whose kernel has nf_tables. Whether this one has is seen at the first request.
#[derive(Default)]
pub struct Nftables {
    ownership: OwnershipState,
    thread: Option<SocketThread>,
    watch: Option<TableWatch>,
}

impl Nftables {
    /// One whose tables have this owner, where the kernel can.
    pub fn new(ownership: Ownership) -> Self {
        Self { ownership: OwnershipState::new(ownership), ..Self::default() }
    }

    /// The table as it stands in the kernel.
    pub async fn observe(&mut self) -> Result<ObservedTable, DataplaneError> {
        self.ask(Request::Observe).await
    }

    /// Lets go of the table, so that another process may change it.
    pub async fn release(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.release().await;
        }
    }

    async fn ask<T>(&mut self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, DataplaneError> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => SocketThread::start(self.ownership.next(Instant::now()))?,
        };
        let (answer, receiver) = oneshot::channel();
        thread.send(request(answer))?;
        self.thread = Some(thread);
        match timeout(COMMIT_TIMEOUT, receiver).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(thread_ended()),
            Err(_) => Err(DataplaneError::TimedOut(COMMIT_TIMEOUT)),
        }
    }
}

/// Connections to each backend of `state` that has a counter in the table.
fn connections_of(observed: &ObservedTable, state: &DesiredState) -> BTreeMap<Backend, u64> {
    let count = |backend: Backend| {
        observed.counters.get(&names::backend_name(backend)).map(|count| (backend, count.packets))
    };
    state.backends().into_iter().filter_map(count).collect()
}

impl Dataplane for Nftables {
    async fn apply(
        &mut self,
        state: &DesiredState,
        before: Option<&DesiredState>,
    ) -> Result<Applied, DataplaneError> {
        let started = Instant::now();
        // Listens before there is anything that could be changed.
        let _ = self.watch.get_or_insert_with(TableWatch::open);
        let table = build::table(state);
        let ownership = self.ownership.next(started);
        let replaced = self.ask(|answer| Request::Replace(table, ownership, answer)).await?;
        let took = started.elapsed();
        if let Some(watch) = &mut self.watch {
            watch.settle();
        }
        if self.ownership.made(ownership, replaced.owned, Instant::now()) {
            tracing::info!(
                event = %"table_owner_unsupported",
                "Kernel has no persistent table owners, any program may change rules"
            );
        }
        let connections_before =
            before.map(|state| connections_of(&replaced.before, state)).unwrap_or_default();
        Ok(Applied { connections_before, took, steps: replaced.steps, owned: replaced.owned })
    }

    async fn is_installed(&mut self) -> bool {
        match self.observe().await {
            Ok(observed) => observed.exists,
            Err(error) => !error.downcast_ref().is_some_and(NftError::says_no_nf_tables),
        }
    }

    async fn refresh(&mut self, dead: &BTreeSet<Backend>) -> Result<(), DataplaneError> {
        self.ask(|answer| Request::Refresh(dead.clone(), answer)).await
    }

    async fn connections(&mut self, state: &DesiredState) -> Result<BTreeMap<Backend, u64>, DataplaneError> {
        Ok(connections_of(&self.observe().await?, state))
    }

    async fn drifted(&mut self) -> Drift {
        loop {
            let (Some(thread), Some(watch)) = (&self.thread, &mut self.watch) else { return pending().await };
            let drift = watch.wait_for_suspicion(thread.port).await;
            match self.ask(Request::Verify).await {
                Ok(TableState::Changed) => return drift,
                Ok(TableState::Unchanged) => self.watch.iter_mut().for_each(TableWatch::settle),
                Err(error) => {
                    tracing::debug!(event = %"table_verify_failed", %error, "Failed to verify table");
                    sleep(VERIFY_RETRY).await;
                }
            }
        }
    }

    async fn remove(&mut self) -> Result<bool, DataplaneError> {
        self.ask(Request::Remove).await
    }
}

/// Whether the table is requested to belong to the daemon. A kernel that refused that once most likely does not support it, but
/// the refusal may have had another reason: it is requested again now and then.
#[derive(Debug, Default)]
struct OwnershipState {
    wanted: Ownership,
    refused: Option<Instant>,
    logged: bool,
}

impl OwnershipState {
    pub fn new(wanted: Ownership) -> Self {
        Self { wanted, refused: None, logged: false }
    }

    /// As what the next replacement is to be made.
    pub fn next(&self, now: Instant) -> Ownership {
        match self.refused {
            Some(at) if now.saturating_duration_since(at) < AGAIN => Ownership::Plain,
            _ => self.wanted,
        }
    }

    /// A replacement was made as `asked`. Returns whether it is to be logged that the table has no owner.
    pub fn made(&mut self, asked: Ownership, owned: bool, now: Instant) -> bool {
        if asked != Ownership::Owned {
            return false;
        }
        self.refused = (!owned).then_some(now);
        let is_news = !owned && !self.logged;
        self.logged = !owned;
        is_news
    }
}

/// Where an answer goes.
type Answer<T> = oneshot::Sender<Result<T, NftError>>;

/// What the thread does.
enum Request {
    Replace(Table, Ownership, Answer<Replacement>),
    Refresh(BTreeSet<Backend>, Answer<()>),
    Observe(Answer<ObservedTable>),
    Verify(Answer<TableState>),
    Remove(Answer<bool>),
}

impl Request {
    /// The caller has given up.
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
type RequestSlot = Arc<Mutex<Option<Request>>>;

/// The running thread. It ends when this is dropped, and the table has no owner from then on.
struct SocketThread {
    waiting: RequestSlot,
    wake: mpsc::SyncSender<()>,
    /// The netlink port of its socket.
    pub port: u32,
    ended: oneshot::Receiver<()>,
}

impl SocketThread {
    /// Opens the socket in the current network namespace and starts its thread.
    pub fn start(ownership: Ownership) -> Result<Self, DataplaneError> {
        let socket = NftSocket::open()?.with_ownership(ownership);
        let port = socket.port();
        let mut socket = Some(socket);
        Self::spawn(port, move |request| socket = socket.take().map(|socket| serve(socket, request)))
    }

    /// Starts a thread that works on requests in this way.
    pub fn spawn(port: u32, mut serve: impl FnMut(Request) + Send + 'static) -> Result<Self, DataplaneError> {
        let waiting = RequestSlot::default();
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let (ends, ended) = oneshot::channel::<()>();
        let inbox = Arc::clone(&waiting);
        thread::Builder::new()
            .name("nftables".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                for () in woken {
                    let request = inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
                    // Seconds may have passed since it was sent.
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
            Err(TrySendError::Disconnected(())) => Err(thread_ended()),
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
fn thread_ended() -> DataplaneError {
    DataplaneError::Worker(io::Error::from(io::ErrorKind::BrokenPipe))
}

/// The asker may give up waiting meanwhile; then nobody wants the answer.
fn serve(mut socket: NftSocket, request: Request) -> NftSocket {
    match request {
        Request::Replace(table, ownership, answer) => {
            socket = socket.with_ownership(ownership);
            drop(answer.send(socket.replace(&table)));
            // Whoever waits for the rules does not wait for this. Where it fails, the next verification takes the table for
            // changed, and it is committed once more.
            if let Err(error) = socket.record_fingerprint() {
                tracing::debug!(
                    event = %"table_fingerprint_failed", %error,
                    "Failed to read table after commit"
                );
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

    /// A thread that is in the kernel until the test lets it on, and what it did.
    fn stuck() -> (SocketThread, mpsc::Sender<()>, mpsc::Receiver<&'static str>) {
        let (done, did) = mpsc::channel();
        let (go_on, held) = mpsc::channel();
        let serve = move |request: Request| {
            let _ = held.recv();
            let _ = match request {
                Request::Verify(answer) => {
                    drop(answer.send(Ok(TableState::Unchanged)));
                    done.send("verify")
                }
                Request::Remove(answer) => {
                    drop(answer.send(Ok(true)));
                    done.send("remove")
                }
                Request::Replace(..) | Request::Refresh(..) | Request::Observe(_) => done.send("other"),
            };
        };
        (SocketThread::spawn(7, serve).unwrap(), go_on, did)
    }

    /// Waits until the thread has taken what was sent, and is in the kernel with it.
    fn taken(thread: &SocketThread) {
        while thread.waiting.lock().unwrap().is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn abandoned_request_is_not_executed() {
        let (thread, go_on, did) = stuck();
        let (answer, first) = oneshot::channel();
        thread.send(Request::Verify(answer)).unwrap();
        taken(&thread);
        let (answer, abandoned) = oneshot::channel();
        thread.send(Request::Observe(answer)).unwrap();
        drop(abandoned);
        let _ = go_on.send(());
        assert_eq!(first.blocking_recv().unwrap().unwrap(), TableState::Unchanged);
        taken(&thread);
        let (answer, last) = oneshot::channel();
        let _ = go_on.send(());
        thread.send(Request::Remove(answer)).unwrap();
        assert!(last.blocking_recv().unwrap().unwrap());
        assert_eq!(did.try_iter().collect::<Vec<_>>(), ["verify", "remove"]);
    }

    #[test]
    fn second_waiting_request_is_refused_as_busy() {
        let (thread, go_on, did) = stuck();
        let (answer, _first) = oneshot::channel();
        thread.send(Request::Verify(answer)).unwrap();
        taken(&thread);
        let (answer, waits) = oneshot::channel();
        thread.send(Request::Observe(answer)).unwrap();
        let (answer, _) = oneshot::channel();
        assert!(matches!(thread.send(Request::Verify(answer)), Err(DataplaneError::Busy)));
        // An abandoned request makes room for the next.
        drop(waits);
        let (answer, last) = oneshot::channel();
        thread.send(Request::Remove(answer)).unwrap();
        let _ = (go_on.send(()), go_on.send(()));
        assert!(last.blocking_recv().unwrap().unwrap());
        assert_eq!(did.try_iter().collect::<Vec<_>>(), ["verify", "remove"]);
    }

    #[test]
    fn refused_ownership_is_logged_once_and_retried_hourly() {
        let (mut ownership, begin) = (OwnershipState::new(Ownership::Owned), Instant::now());
        assert_eq!(ownership.next(begin), Ownership::Owned);
        assert!(ownership.made(Ownership::Owned, false, begin));
        assert_eq!(ownership.next(begin + AGAIN / 2), Ownership::Plain);
        assert!(!ownership.made(Ownership::Plain, false, begin + AGAIN / 2));
        assert_eq!(ownership.next(begin + AGAIN), Ownership::Owned);
        assert!(!ownership.made(Ownership::Owned, false, begin + AGAIN), "logged twice");
        assert_eq!(ownership.next(begin + AGAIN + AGAIN / 2), Ownership::Plain);
        assert!(!ownership.made(Ownership::Owned, true, begin + 2 * AGAIN));
        assert_eq!(ownership.next(begin + 2 * AGAIN), Ownership::Owned);
        assert!(ownership.made(Ownership::Owned, false, begin + 3 * AGAIN), "that is news again");
    }

    #[test]
    fn plain_ownership_is_never_requested_as_owned() {
        let mut ownership = OwnershipState::new(Ownership::Plain);
        assert!(!ownership.made(Ownership::Plain, false, Instant::now()));
        assert_eq!(ownership.next(Instant::now() + 9 * AGAIN), Ownership::Plain);
    }
}
