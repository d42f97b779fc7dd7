//! The self-test's task, and what it sees of its own connections: the forwarder's guests, the table's counters,
//! conntrack and the host's sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::aside;
use crate::config::{AdminArgs, OrOff};
use crate::conntrack::NetlinkError;
use crate::conntrack::lookup::Lookup;
use crate::health::ProbeConfig;
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::types::{Backend, Vip};
use crate::nftables::socket::NftSocket;
use crate::proxy::Stats;
use crate::selftest::{
    self, ConnectionEvidence, ConnectionTrace, ForwardedCounts, SelfTestConfig, SelfTestObserver,
    SelfTestResults,
};
use crate::transport::readyz::Identity;

/// Starts it, unless it is off. Apiservers are believed as probes believe them.
pub(super) fn start(
    args: &AdminArgs,
    probes: &ProbeConfig,
    identity: watch::Receiver<Identity>,
    reports: watch::Receiver<Report>,
    (metrics, stats): (Arc<Metrics>, Arc<Stats>),
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<SelfTestResults> {
    let (results_in, results) = watch::channel(SelfTestResults::new());
    if let OrOff(Some(interval)) = args.selftest_interval {
        let config = SelfTestConfig { interval, server_name: probes.server_name.clone() };
        let (evidence, observer) = (Arc::new(Witness::open(stats)), metrics as Arc<dyn SelfTestObserver>);
        aside::spawn(
            "selftest",
            tasks,
            selftest::run(config, identity, reports, evidence, observer, results_in),
        );
    }
    results
}

/// The node itself. What its kernel lacks is no evidence, and no reason not to start.
struct Witness {
    stats: Arc<Stats>,
    lookup: Mutex<Option<Lookup>>,
    rules: Mutex<Option<NftSocket>>,
}

impl Witness {
    fn open(stats: Arc<Stats>) -> Self {
        let lookup = Lookup::open().inspect_err(|error| {
            tracing::debug!(%error, "the self-test cannot ask conntrack");
        });
        let rules = NftSocket::open().inspect_err(|error| {
            tracing::debug!(%error, "the self-test cannot read the table's counters");
        });
        Self { stats, lookup: Mutex::new(lookup.ok()), rules: Mutex::new(rules.ok()) }
    }
}

impl ConnectionEvidence for Witness {
    fn expect(&self, port: u16) {
        self.stats.guests().expect(port);
    }

    fn accepted(&self, port: u16) -> Option<SocketAddr> {
        self.stats.guests().forget(port)
    }

    fn counted(&self, backends: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.as_mut()?.counters(backends).ok()
    }

    fn others(&self, vip: Vip) -> Option<ForwardedCounts> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let (came, went) = rules.as_mut()?.others(vip).ok()??;
        Some(ForwardedCounts { arrived: came, forwarded: went })
    }

    fn trace(&self, local: SocketAddr, vip: Vip, backends: &BTreeSet<Backend>) -> Option<ConnectionTrace> {
        let mut lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        let trace = trace(lookup.as_mut()?, local, vip, backends);
        trace.inspect_err(|error| tracing::debug!(%error, "trace the self-test's connection")).ok()
    }
}

/// What is dear is asked last.
fn trace(
    lookup: &mut Lookup,
    local: SocketAddr,
    vip: Vip,
    backends: &BTreeSet<Backend>,
) -> Result<ConnectionTrace, NetlinkError> {
    let own_socket = lookup.is_own(local, vip);
    let mut answers = lookup.answers(local, vip)?;
    let mut direct = None;
    if answers.is_none() && !own_socket {
        for backend in backends {
            if direct.is_none() && lookup.answers(local, *backend)? == Some(*backend) {
                direct = Some(*backend);
            }
        }
        if direct.is_none() {
            answers = lookup.answers_in_any_zone(local, vip)?;
        }
    }
    Ok(ConnectionTrace { answers, direct, own_socket })
}
