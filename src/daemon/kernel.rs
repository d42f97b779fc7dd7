//! What this node's kernel and the proxy know of connections: evidence for health checks and the self-test, and which
//! apiservers are in use.
//!
//! In: conntrack, sock_diag, the counters of the nftables table, the proxy's statistics. Out: the traits by which
//! [`health`](crate::health) and [`selftest`](crate::selftest) ask, and each backend that gets new connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::thread;
use crate::config::{AdminArgs, OrOff};
use crate::conntrack::capture::Observation;
use crate::conntrack::lookup::{Lookup, OwnConnections};
use crate::conntrack::{self, NetlinkError, PathChallenger};
use crate::health::{ChallengeOutcome, ClientFlowMonitor, ProbeConfig, SocketInfo};
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::types::{Backend, Vip};
use crate::nftables::socket::NftSocket;
use crate::proxy::{Origin, Stats};
use crate::selftest::{
    self, ConnectionEvidence, ConnectionTrace, ForwardedCounts, SelfTestConfig, SelfTestObserver,
    SelfTestResults,
};
use crate::transport::readyz::Identity;

/// Poll interval while no connections are opened. A poll takes the kernel less than 0.1 ms. Prober and client notice a hanging
/// apiserver this much later at the most.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Poll interval while connections are opened, or were within [`BUSY_FOR`].
const BUSY_POLL: Duration = Duration::from_millis(250);
const BUSY_FOR: Duration = Duration::from_secs(5);

/// The kernel's view of the connections of probes. If it cannot be had, there is no such evidence, and the daemon starts anyway.
pub(super) struct ProbeConnections(Mutex<Option<OwnConnections>>);

impl ProbeConnections {
    pub(super) fn open() -> Self {
        let opened = OwnConnections::open().inspect_err(|error| {
            tracing::debug!(
                event = %"probe_socket_info_unavailable", %error,
                "Probes cannot read kernel state of their connections"
            );
        });
        Self(Mutex::new(opened.ok()))
    }
}

impl SocketInfo for ProbeConnections {
    fn last_segment_age(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = connections.as_mut()?.last_ack(own, peer);
        heard
            .inspect_err(|error| {
                tracing::debug!(
                    event = %"probe_socket_info_failed", %error, backend = %peer,
                    "Failed to read kernel state of probe connection"
                );
            })
            .ok()?
    }
}

/// The flows of clients, as far as this kernel shows them. Without ctnetlink none can be challenged.
pub(super) struct ClientFlows(pub(super) Option<PathChallenger>);

impl ClientFlowMonitor for ClientFlows {
    fn watch(&self, backend: Backend) -> io::Result<BoxStream<'static, bool>> {
        let observation = Observation::open(backend)?;
        Ok(stream::unfold(observation, async |mut observation| {
            let heard = observation.next_segment().await;
            Some((heard.data, observation))
        })
        .boxed())
    }

    fn challenge(&self, backend: Backend, vips: Vec<Vip>) -> BoxFuture<'static, ChallengeOutcome> {
        let challenger = self.0.clone();
        async move {
            let Some(challenger) = challenger else { return ChallengeOutcome::Impossible };
            match challenger.challenge(backend, vips).await {
                conntrack::ChallengeOutcome::NoFlows => ChallengeOutcome::NoFlows,
                // Both are the daemon's own: the probe connection that is kept open, and that of the watch.
                conntrack::ChallengeOutcome::Sent { flows: ..=2, own: true } => ChallengeOutcome::OnlyOwn,
                conntrack::ChallengeOutcome::Sent { .. } => ChallengeOutcome::Sent,
                conntrack::ChallengeOutcome::Impossible => ChallengeOutcome::Impossible,
            }
        }
        .boxed()
    }
}

/// Starts the self-test, unless it is off. It verifies apiservers as probes do.
pub(super) fn start_selftest(
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
        let (evidence, observer) =
            (Arc::new(SelfTestEvidence::open(stats)), metrics as Arc<dyn SelfTestObserver>);
        thread::spawn(
            "selftest",
            tasks,
            selftest::run(config, identity, reports, evidence, observer, results_in),
        );
    }
    results
}

/// What the node knows of the self-test's connections: the proxy, the table's counters, conntrack and the host's sockets. If one
/// of them cannot be had, there is no such evidence, and the daemon starts anyway.
struct SelfTestEvidence {
    stats: Arc<Stats>,
    lookup: Mutex<Option<Lookup>>,
    rules: Mutex<Option<NftSocket>>,
}

impl SelfTestEvidence {
    fn open(stats: Arc<Stats>) -> Self {
        let lookup = Lookup::open().inspect_err(|error| {
            tracing::debug!(
                event = %"selftest_conntrack_unavailable", %error,
                "Self-test cannot read conntrack"
            );
        });
        let rules = NftSocket::open().inspect_err(|error| {
            tracing::debug!(
                event = %"selftest_counters_unavailable", %error,
                "Self-test cannot read counters of the table"
            );
        });
        Self { stats, lookup: Mutex::new(lookup.ok()), rules: Mutex::new(rules.ok()) }
    }
}

impl ConnectionEvidence for SelfTestEvidence {
    fn expect(&self, port: u16) {
        self.stats.expected_peers().expect(port);
    }

    fn accepted(&self, port: u16) -> Option<SocketAddr> {
        self.stats.expected_peers().take(port)
    }

    fn counted(&self, backends: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.as_mut()?.counters(backends).ok()
    }

    fn forwarded_counts(&self, vip: Vip) -> Option<ForwardedCounts> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let (came, went) = rules.as_mut()?.connection_counters(vip).ok()??;
        Some(ForwardedCounts { arrived: came, forwarded: went })
    }

    fn trace(&self, local: SocketAddr, vip: Vip, backends: &BTreeSet<Backend>) -> Option<ConnectionTrace> {
        let mut lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        let trace = trace(lookup.as_mut()?, local, vip, backends);
        trace
            .inspect_err(|error| {
                tracing::debug!(
                    event = %"selftest_trace_failed", %error,
                    "Failed to trace connection of self-test"
                );
            })
            .ok()
    }
}

/// The expensive lookup comes last.
fn trace(
    lookup: &mut Lookup,
    local: SocketAddr,
    vip: Vip,
    backends: &BTreeSet<Backend>,
) -> Result<ConnectionTrace, NetlinkError> {
    let own_socket = lookup.is_own_socket(local, vip);
    let mut answers = lookup.backend_of(local, vip)?;
    let mut direct = None;
    if answers.is_none() && !own_socket {
        for backend in backends {
            if direct.is_none() && lookup.backend_of(local, *backend)? == Some(*backend) {
                direct = Some(*backend);
            }
        }
        if direct.is_none() {
            answers = lookup.backend_in_any_zone(local, vip)?;
        }
    }
    Ok(ConnectionTrace { answers, direct, own_socket })
}

/// Reports which backends get new connections, from the table's counters and the proxy's, until the receiver is gone. Without
/// counters pings are rarer.
pub(super) async fn watch_use(
    reports: watch::Receiver<Report>,
    stats: Arc<Stats>,
    in_use: mpsc::UnboundedSender<Backend>,
) {
    let mut rules = NftSocket::open().inspect_err(|error| {
        tracing::debug!(
            event = %"usage_counters_unavailable", %error,
            "Cannot read counters to find the API servers in use"
        );
    });
    let (mut counted, mut accepted, mut used) = (BTreeMap::new(), 0, None::<Instant>);
    while !in_use.is_closed() {
        let backends = programmed_backends(&reports.borrow());
        let now = rules.as_mut().ok().and_then(|rules| rules.counters(&backends).ok()).unwrap_or_default();
        let forwarded = [Origin::Vip, Origin::Listen].map(|origin| stats.accepted(origin)).iter().sum();
        // The proxy does not count by backend.
        let in_use_now = if forwarded > accepted { backends } else { increased(&counted, &now) };
        (counted, accepted) = (now, forwarded);
        if !in_use_now.is_empty() {
            used = Some(Instant::now());
        }
        for backend in in_use_now {
            let _ = in_use.send(backend);
        }
        let busy = used.is_some_and(|used| used.elapsed() < BUSY_FOR);
        tokio::time::sleep(if busy { BUSY_POLL } else { IDLE_POLL }).await;
    }
}

fn programmed_backends(report: &Report) -> BTreeSet<Backend> {
    report.programmed.iter().flat_map(|state| &state.frontends).flat_map(|f| &f.backends).copied().collect()
}

/// Those whose counter is higher than before, or, if it was reset meanwhile, not 0.
fn increased(before: &BTreeMap<Backend, u64>, now: &BTreeMap<Backend, u64>) -> BTreeSet<Backend> {
    let has_increased = |(backend, count): &(&Backend, &u64)| match before.get(backend) {
        Some(before) if before <= count => before < count,
        _ => **count > 0,
    };
    now.iter().filter(has_increased).map(|(backend, _)| *backend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_that_increased_or_was_reset_shows_use() {
        let backend = |last: u8| Backend::from(([192, 0, 2, last], 6443));
        let before = BTreeMap::from([(backend(1), 5), (backend(2), 5), (backend(3), 5), (backend(4), 5)]);
        let now = BTreeMap::from([
            (backend(1), 5),
            (backend(2), 6),
            (backend(3), 1),
            (backend(4), 0),
            (backend(5), 0),
            (backend(6), 2),
        ]);
        assert_eq!(increased(&before, &now), [backend(2), backend(3), backend(6)].into());
    }
}
