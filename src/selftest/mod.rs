//! Connects to each virtual IP as any process of this node would, and says whether an apiserver answered, and which
//! component routed the connection there.
//!
//! In: which virtual IPs there are (the reconciler's report), whom to trust, a [`ConnectionEvidence`] that can look
//! up one connection. Out: [`SelfTestResults`], and one call of the [`SelfTestObserver`] for each test. Nothing else
//! follows from a result: it changes neither health nor rules nor flows.
//!
//! `component` says which component it was; `attempt` is one connection; `task` decides when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::sync::watch;

use crate::model::report::Report;
use crate::model::types::{Backend, Vip};
use crate::transport::readyz::Identity;

mod attempt;
mod component;
mod task;

pub use attempt::SelfTestFailure;
pub use component::{Component, ConnectionTrace, CounterChange, ForwardedCounts, ForwardedTraffic};

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

/// Looks up one connection of this host in the kernel and in the forwarder.
pub trait ConnectionEvidence: Send + Sync {
    /// A connection from this local port is about to be made. Ends with [`ConnectionEvidence::accepted`].
    fn expect(&self, port: u16);

    /// The client that the forwarder accepted from this port since it was expected.
    fn accepted(&self, port: u16) -> Option<SocketAddr>;

    /// New connections that `table inet apivip` has redirected to each of `backends` so far; `None` if that cannot be read.
    fn counted(&self, backends: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>>;

    /// What `table inet apivip` counted of connections of others to `vip`; `None` if that cannot be read.
    fn forwarded_counts(&self, vip: Vip) -> Option<ForwardedCounts>;

    /// What the kernel knows of the connection from `local` to `vip`; `None` if it cannot be queried.
    fn trace(&self, local: SocketAddr, vip: Vip, backends: &BTreeSet<Backend>) -> Option<ConnectionTrace>;
}

/// Is notified of every finished test.
pub trait SelfTestObserver: Send + Sync {
    /// The results as they are now, of which the one of `vip` is new.
    fn tested(&self, vip: Vip, results: &SelfTestResults);
}

/// The latest test of each virtual IP and port. Empty until the first, and while there is nothing to test.
pub type SelfTestResults = BTreeMap<Vip, SelfTestResult>;

/// The latest test of one virtual IP and port.
#[derive(Clone, Debug)]
pub struct SelfTestResult {
    /// When it ended.
    pub at: Instant,
    /// How long it took from the first packet to the answer, or why there was none.
    pub outcome: Result<Duration, SelfTestFailure>,
    /// The component that handled the connection, if one was established.
    pub by: Option<Component>,
    /// The API server, or another peer, that the connection was routed to, where that is known.
    pub backend: Option<SocketAddr>,
    /// Failures in a row, up to this one.
    pub failures: u32,
    /// When it was answered last.
    pub answered: Option<Instant>,
    /// Whether connections of Pods and other hosts get beyond this node.
    pub pod_traffic: ForwardedTraffic,
}

impl SelfTestResult {
    /// Whether connections to the virtual IP are answered: one was, and what failed since is too little to count.
    pub fn is_ready(&self) -> bool {
        self.answered.is_some() && self.failures < FAILURES
    }
}

/// Tests until `reports` closes. Only the CA of `identity` is used: no credentials are sent to the peer.
pub async fn run(
    config: SelfTestConfig,
    identity: watch::Receiver<Identity>,
    reports: watch::Receiver<Report>,
    evidence: Arc<dyn ConnectionEvidence>,
    observer: Arc<dyn SelfTestObserver>,
    results: watch::Sender<SelfTestResults>,
) {
    let (logged, sessions, forwarded) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    task::SelfTestTask {
        config,
        identity,
        reports,
        evidence,
        observer,
        results,
        logged,
        sessions,
        forwarded,
    }
    .run()
    .await;
}

#[cfg(test)]
mod tests;
