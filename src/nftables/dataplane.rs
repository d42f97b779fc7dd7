//! The nf_tables dataplane: asks the thread that owns the socket, and has it look whether the table still stands.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::dataplane::drift::Drift;
use crate::dataplane::{Applied, Dataplane, DataplaneError};
use crate::model::desired::DesiredState;
use crate::model::types::Backend;
use crate::nftables::owner::Ownership;
use crate::nftables::reply::Observed;
use crate::nftables::socket::Standing;
use crate::nftables::{build, names};

mod owning;
mod watch;
mod worker;

use owning::Owning;
use watch::Watch;
use worker::{Answer, Request, Worker, gone};

/// Measured: a commit waits up to 8 s while another program reloads the rules of 5,000 Services.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A look that failed is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The dataplane of nodes whose kernel has nf_tables. Whether this one has is seen at the first request.
#[derive(Default)]
pub struct Nftables {
    owning: Owning,
    worker: Option<Worker>,
    watch: Option<Watch>,
}

impl Nftables {
    /// One whose tables have this owner, where the kernel can.
    pub fn new(ownership: Ownership) -> Self {
        Self { owning: Owning::new(ownership), ..Self::default() }
    }

    /// The table as it stands in the kernel.
    pub async fn observe(&mut self) -> Result<Observed, DataplaneError> {
        self.ask(Request::Observe).await
    }

    /// Lets go of the table, so that another process may change it.
    pub async fn release(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.release().await;
        }
    }

    async fn ask<T>(&mut self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, DataplaneError> {
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => Worker::start(self.owning.next(Instant::now()))?,
        };
        let (answer, receiver) = oneshot::channel();
        worker.send(request(answer))?;
        self.worker = Some(worker);
        match tokio::time::timeout(COMMIT_TIMEOUT, receiver).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(DataplaneError::TimedOut(COMMIT_TIMEOUT)),
        }
    }
}

/// Connections to each backend of `state` that has a counter in the table.
fn counted(observed: &Observed, state: &DesiredState) -> BTreeMap<Backend, u64> {
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
        let _ = self.watch.get_or_insert_with(Watch::open);
        let table = build::table(state);
        let ownership = self.owning.next(started);
        let replaced = self.ask(|answer| Request::Replace(table, ownership, answer)).await?;
        let took = started.elapsed();
        if let Some(watch) = &mut self.watch {
            watch.settle();
        }
        if self.owning.made(ownership, replaced.owned, Instant::now()) {
            tracing::info!(
                "this kernel has no owners of tables that a table outlives (6.9 has): any program may change the rules"
            );
        }
        let connections_before = before.map(|state| counted(&replaced.before, state)).unwrap_or_default();
        Ok(Applied { connections_before, took, steps: replaced.steps, owned: replaced.owned })
    }

    async fn stands(&mut self) -> bool {
        match self.observe().await {
            Ok(observed) => observed.exists,
            Err(DataplaneError::Nft(error)) => !error.says_no_nf_tables(),
            Err(_) => true,
        }
    }

    async fn refresh(&mut self, dead: &BTreeSet<Backend>) -> Result<(), DataplaneError> {
        self.ask(|answer| Request::Refresh(dead.clone(), answer)).await
    }

    async fn connections(&mut self, state: &DesiredState) -> Result<BTreeMap<Backend, u64>, DataplaneError> {
        Ok(counted(&self.observe().await?, state))
    }

    async fn drifted(&mut self) -> Drift {
        loop {
            let (Some(worker), Some(watch)) = (&self.worker, &mut self.watch) else { return pending().await };
            let drift = watch.suspect(worker.port).await;
            match self.ask(Request::Verify).await {
                Ok(Standing::Differs) => return drift,
                Ok(Standing::Stands) => self.watch.iter_mut().for_each(Watch::settle),
                Err(error) => {
                    tracing::debug!(%error, "look whether the table stands");
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn remove(&mut self) -> Result<bool, DataplaneError> {
        self.ask(Request::Remove).await
    }
}
