//! Connects to each virtual IP as any process of this node would, and says whether an apiserver answered, and which
//! component led the connection to it.
//!
//! In: which virtual IPs there are (the reconciler's report), whom to trust, an [`Evidence`] that can look at one
//! connection. Out: [`Results`], and one call of the [`Observer`] for each test. Nothing else follows from a result:
//! it changes neither health nor rules nor flows.
//!
//! `verdict` and `answer` are pure; `attempt` is one connection; `others` looks at connections that the daemon does
//! not make itself; `task` decides when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::sync::watch;

use crate::model::report::Report;
use crate::model::types::{Backend, Vip};
use crate::transport::readyz::Identity;

mod answer;
mod attempt;
mod others;
mod task;
mod verdict;

pub use answer::Failure;
pub use others::{Counts, OthersWay};
pub use verdict::{Component, Counted, Trace};

/// A test ends after this at the latest. An apiserver that lost its etcd takes 2 s to say so.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// So many failures in a row count. One happens in the moment in which an apiserver dies.
pub const FAILURES: u32 = 2;

/// How to test.
#[derive(Clone, Debug)]
pub struct SelfTestConfig {
    /// From one round to the next, a tenth more or less. After a failure the next one follows sooner.
    pub interval: Duration,
    /// The name that the certificate must carry.
    pub server_name: ServerName<'static>,
}

/// Looks at one connection of this host from outside of it.
pub trait Evidence: Send + Sync {
    /// A connection from this local port is about to be made. Ends with [`Evidence::accepted`].
    fn expect(&self, port: u16);

    /// The client that the forwarder accepted from this port since it was expected.
    fn accepted(&self, port: u16) -> Option<SocketAddr>;

    /// New connections that `table inet apivip` has led to each of `backends` so far; `None` if that cannot be read.
    fn counted(&self, backends: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>>;

    /// What `table inet apivip` counted of connections of others to `vip`; `None` if that cannot be read.
    fn others(&self, vip: Vip) -> Option<Counts>;

    /// What the kernel knows of the connection from `local` to `vip`; `None` if it cannot be asked.
    fn trace(&self, local: SocketAddr, vip: Vip, backends: &BTreeSet<Backend>) -> Option<Trace>;
}

/// Is told of every finished test.
pub trait Observer: Send + Sync {
    /// The results as they are now, of which the one of `vip` is new.
    fn tested(&self, vip: Vip, results: &Results);
}

/// The latest test of each virtual IP and port. Empty until the first, and while there is nothing to test.
pub type Results = BTreeMap<Vip, Latest>;

/// The latest test of one virtual IP and port.
#[derive(Clone, Debug)]
pub struct Latest {
    /// When it ended.
    pub at: Instant,
    /// How long it took from the first packet to the answer, or why there was none.
    pub outcome: Result<Duration, Failure>,
    /// Who took the connection, if one came about.
    pub by: Option<Component>,
    /// The apiserver, or whoever it was, that the connection was led to, where that is known.
    pub backend: Option<SocketAddr>,
    /// Failures in a row, up to this one.
    pub failures: u32,
    /// When it was answered last.
    pub answered: Option<Instant>,
    /// Whether connections of Pods and other hosts get further than this node.
    pub others: OthersWay,
}

impl Latest {
    /// Whether connections to the virtual IP are answered: one was, and what failed since is too little to count.
    pub fn is_ready(&self) -> bool {
        self.answered.is_some() && self.failures < FAILURES
    }
}

/// Tests until nobody reports any more. Only the CA of `identity` is used: no credentials are shown to whoever is reached.
pub async fn run(
    config: SelfTestConfig,
    identity: watch::Receiver<Identity>,
    reports: watch::Receiver<Report>,
    evidence: Arc<dyn Evidence>,
    observer: Arc<dyn Observer>,
    results: watch::Sender<Results>,
) {
    let (told, sessions, ways) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    task::Task { config, identity, reports, evidence, observer, results, told, sessions, ways }.run().await;
}

#[cfg(test)]
mod tests;
