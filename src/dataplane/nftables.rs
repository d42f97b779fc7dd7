//! The nf_tables dataplane: a thread that owns the one long-lived socket.
//!
//! A commit can wait seconds for another program's, so it never runs on the runtime's thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::nft::build;
use super::nft::reply::Observed;
use super::nft::socket::{NftError, NftSocket, Replaced};
use super::nft::table::Table;
use super::{Applied, Dataplane, DataplaneError};
use crate::model::desired::DesiredState;
use crate::model::types::Backend;

/// Measured: a commit waits up to 8 s while another program reloads the rules of 5,000 Services.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The dataplane of nodes whose kernel has nf_tables. Whether this one has is seen at the first request.
#[derive(Default)]
pub struct Nftables {
    requests: Option<mpsc::Sender<Request>>,
}

type Answer<T> = oneshot::Sender<Result<T, NftError>>;

enum Request {
    Replace(Table, Answer<Replaced>),
    Observe(Answer<Observed>),
    Remove(Answer<bool>),
}

/// Opens the socket in the current network namespace and starts its thread.
fn start() -> Result<mpsc::Sender<Request>, DataplaneError> {
    let mut socket = NftSocket::open()?;
    let (requests, inbox) = mpsc::channel::<Request>();
    thread::Builder::new()
        .name("nftables".to_owned())
        .stack_size(256 << 10)
        .spawn(move || inbox.iter().for_each(|request| serve(&mut socket, request)))
        .map_err(DataplaneError::Worker)?;
    Ok(requests)
}

impl Nftables {
    /// The table as it stands in the kernel.
    pub async fn observe(&mut self) -> Result<Observed, DataplaneError> {
        self.ask(Request::Observe).await
    }

    async fn ask<T>(&mut self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, DataplaneError> {
        let gone = || DataplaneError::Worker(io::Error::from(io::ErrorKind::BrokenPipe));
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => start()?,
        };
        let (answer, receiver) = oneshot::channel();
        requests.send(request(answer)).map_err(|_| gone())?;
        self.requests = Some(requests);
        match tokio::time::timeout(COMMIT_TIMEOUT, receiver).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(DataplaneError::TimedOut(COMMIT_TIMEOUT)),
        }
    }
}

/// The asker may have given up waiting; then nobody wants the answer.
fn serve(socket: &mut NftSocket, request: Request) {
    match request {
        Request::Replace(table, answer) => drop(answer.send(socket.replace(&table))),
        Request::Observe(answer) => drop(answer.send(socket.observe())),
        Request::Remove(answer) => drop(answer.send(socket.remove())),
    }
}

/// Connections to each backend of `state` that has a counter in the table.
fn counted(observed: &Observed, state: &DesiredState) -> BTreeMap<Backend, u64> {
    let count = |backend: Backend| {
        observed.counters.get(&build::backend_name(backend)).map(|count| (backend, count.packets))
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
        let table = build::table(state);
        let replaced = self.ask(|answer| Request::Replace(table, answer)).await?;
        let took = started.elapsed();
        let connections_before = before.map(|state| counted(&replaced.before, state)).unwrap_or_default();
        Ok(Applied { connections_before, took, steps: replaced.steps })
    }

    async fn connections(&mut self, state: &DesiredState) -> Result<BTreeMap<Backend, u64>, DataplaneError> {
        Ok(counted(&self.observe().await?, state))
    }

    async fn remove(&mut self) -> Result<bool, DataplaneError> {
        self.ask(Request::Remove).await
    }
}
