//! When each virtual IP is tested, and what is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::sync::watch;
use tokio::time::sleep;

use super::attempt::{SelfTestAttempt, connect_and_request};
use super::component::{
    ForwardedTracker, ForwardedTraffic, component_without_connection, identify_component,
};
use super::{
    Component, ConnectionEvidence, CounterChange, FAILURES, SelfTestConfig, SelfTestObserver, SelfTestResult,
    SelfTestResults,
};
use crate::model::desired::DesiredState;
use crate::model::report::{Phase, Report, TrafficPath};
use crate::model::snapshot::HTTPS;
use crate::model::types::{Backend, Vip};
use crate::transport::readyz::{Identity, settings};

/// After a failure the next round comes this soon: recovery is to be seen at once.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// After the rules or the datapath changed the next round comes this soon.
const CHANGE_DELAY: Duration = Duration::from_millis(200);
/// Apiservers whose TLS sessions are kept. A cluster has fewer.
const MAX_TLS_SESSIONS: usize = 64;
/// Between two checks of forwarded connections: one dump of counters each.
const FORWARDED_INTERVAL: Duration = Duration::from_secs(10);

/// See [`super::run`].
pub(super) struct SelfTestTask {
    pub config: SelfTestConfig,
    pub identity: watch::Receiver<Identity>,
    pub reports: watch::Receiver<Report>,
    pub evidence: Arc<dyn ConnectionEvidence>,
    pub observer: Arc<dyn SelfTestObserver>,
    pub results: watch::Sender<SelfTestResults>,
    /// What was last logged of each virtual IP: the component that answers; `None`: none.
    pub logged: BTreeMap<Vip, Option<Component>>,
    /// What is known of forwarded connections to each virtual IP.
    pub forwarded: BTreeMap<Vip, ForwardedTracker>,
    /// TLS sessions with each apiserver that answered, as far as it is known who did.
    pub sessions: BTreeMap<Option<Backend>, Resumption>,
}

/// A change of this starts a new round.
type TestInputs = (Vec<Vip>, TrafficPath);

fn inputs(report: &Report) -> TestInputs {
    let traffic_path = report.path.as_ref().map_or(TrafficPath::None, |path| path.in_use);
    (report.programmed.as_deref().map(targets).unwrap_or_default(), traffic_path)
}

/// The port `https` of each virtual IP; all ports of one that has none of that name.
fn targets(state: &DesiredState) -> Vec<Vip> {
    let named = |vip: &Vip| {
        state.frontends.iter().any(|other| other.vip.ip() == vip.ip() && other.port_name == HTTPS)
    };
    let wanted = state.frontends.iter().filter(|f| f.port_name == HTTPS || !named(&f.vip));
    wanted.map(|frontend| frontend.vip).collect()
}

/// Every backend that the table may redirect this virtual IP to, or did a moment ago.
fn backends(report: &Report, vip: Vip) -> BTreeSet<Backend> {
    let programmed = report.programmed.iter().flat_map(|state| &state.frontends).filter(|f| f.vip == vip);
    let mut all: BTreeSet<Backend> =
        programmed.flat_map(|f| f.backends.iter().chain(&f.failed)).copied().collect();
    if let Some(view) = &report.view {
        all.extend(view.snapshot.frontends.iter().filter(|f| f.vip == vip).flat_map(|f| &f.backends));
        let ports: BTreeSet<u16> = all.iter().map(Backend::port).collect();
        let alike = |b: &&Backend| b.is_ipv4() == vip.is_ipv4() && ports.contains(&b.port());
        all.extend(view.backends.keys().filter(alike));
    }
    all
}

/// TLS settings that go on with the session that this apiserver gave last: a handshake without its private key costs it a
/// tenth. Each apiserver has sessions of its own; one whose CA is no longer the same is not used (rustls).
fn resuming(
    tls: &ClientConfig,
    sessions: &mut BTreeMap<Option<Backend>, Resumption>,
    peer: Option<Backend>,
) -> Arc<ClientConfig> {
    // Addresses come and go with apiservers; their sessions need not be kept for ever.
    if sessions.len() > MAX_TLS_SESSIONS && !sessions.contains_key(&peer) {
        sessions.clear();
    }
    let resumption = sessions.entry(peer).or_insert_with(|| Resumption::in_memory_sessions(1));
    let mut tls = tls.clone();
    tls.resumption = resumption.clone();
    Arc::new(tls)
}

impl SelfTestTask {
    pub(super) async fn run(mut self) {
        loop {
            let (vips, traffic_path) = inputs(&self.reports.borrow_and_update());
            self.results.send_if_modified(|results| {
                let before = results.len();
                results.retain(|vip, _| vips.contains(vip));
                results.len() != before
            });
            self.logged.retain(|vip, _| vips.contains(vip));
            self.forwarded.retain(|vip, _| vips.contains(vip));
            for vip in &vips {
                self.test(*vip).await;
            }
            let failing = self.results.borrow().values().any(|latest| latest.outcome.is_err());
            let wait = if failing { RETRY_INTERVAL.min(self.config.interval) } else { self.config.interval };
            let mut reports = self.reports.clone();
            let news = reports.wait_for(|report| inputs(report) != (vips.clone(), traffic_path));
            tokio::pin!(news);
            let next = sleep(wait.mul_f64(rand::random_range(0.9..1.1)));
            tokio::pin!(next);
            let goes_on = loop {
                self.check_forwarded_traffic(&vips, traffic_path);
                tokio::select! {
                    () = &mut next, if !vips.is_empty() => break None,
                    news = &mut news => break Some(news.is_ok()),
                    () = sleep(FORWARDED_INTERVAL), if !vips.is_empty() => {}
                }
            };
            let Some(goes_on) = goes_on else { continue };
            if !goes_on {
                return;
            }
            // What changes goes on changing for a moment.
            sleep(CHANGE_DELAY).await;
        }
    }

    async fn test(&mut self, vip: Vip) {
        let tls = settings(&self.identity.borrow_and_update().trust, None, &[b"http/1.1"]);
        let known = backends(&self.reports.borrow(), vip);
        let before = self.evidence.counted(&known);
        let forwarding = |report: &Report| report.phase == Phase::Forwarding;
        let was_forwarding = forwarding(&self.reports.borrow());
        let mut trace = None;
        let mut candidates = known.clone();
        let (evidence, reports, sessions) = (&self.evidence, &self.reports, &mut self.sessions);
        let name = self.config.server_name.clone();
        let SelfTestAttempt { outcome, local, forwarded } =
            connect_and_request(vip, name, evidence.as_ref(), |local| {
                // It may have been redirected to a backend that was added meanwhile.
                candidates.extend(backends(&reports.borrow(), vip));
                trace = evidence.trace(local, vip, &candidates);
                let peer = trace.as_ref().and_then(|trace| trace.answers.or(trace.direct));
                resuming(&tls, sessions, peer)
            })
            .await;
        let seen = local.map(|_| {
            identify_component(vip, forwarded, trace, &candidates, |backend| {
                let (Some(before), Some(after)) = (&before, evidence.counted(&[backend].into())) else {
                    return CounterChange::Unknown;
                };
                match (before.get(&backend), after.get(&backend)) {
                    (None, None) => CounterChange::Unchanged,
                    (Some(before), Some(after)) if after == before => CounterChange::Unchanged,
                    (Some(before), Some(after)) if after > before => CounterChange::Increased,
                    // It came, or went, or was reset while the connection was made.
                    _ => CounterChange::Unknown,
                }
            })
        });
        let forwarding = was_forwarding && forwarding(&self.reports.borrow());
        let by = match seen {
            Some((by, _)) => Some(by),
            None => component_without_connection(outcome.err(), forwarding),
        };
        let backend = seen.and_then(|(_, backend)| backend);
        let last = self.results.borrow().get(&vip).cloned();
        let failures = match outcome {
            Ok(_) => 0,
            Err(_) => last.as_ref().map_or(0, |last| last.failures).saturating_add(1),
        };
        let at = Instant::now();
        let answered = outcome.ok().map(|_| at).or(last.as_ref().and_then(|last| last.answered));
        let pod_traffic = last.map(|last| last.pod_traffic).unwrap_or_default();
        let latest = SelfTestResult { at, outcome, by, backend, failures, answered, pod_traffic };
        self.log(vip, &latest);
        self.results.send_modify(|results| {
            results.insert(vip, latest);
        });
        self.observer.tested(vip, &self.results.borrow());
    }

    /// Only the rules count forwarded connections; the forwarder terminates them.
    fn check_forwarded_traffic(&mut self, vips: &[Vip], traffic_path: TrafficPath) {
        for vip in vips {
            let counts = (traffic_path == TrafficPath::Nftables)
                .then(|| self.evidence.forwarded_counts(*vip))
                .flatten();
            let pod_traffic = self.forwarded.entry(*vip).or_default().update(counts);
            let before = self.results.borrow().get(vip).map(|latest| latest.pod_traffic).unwrap_or_default();
            if before == pod_traffic {
                continue;
            }
            match (before, pod_traffic) {
                (ForwardedTraffic::Blocked(_), ForwardedTraffic::Blocked(_)) => {}
                (_, ForwardedTraffic::Blocked(arrived)) => {
                    tracing::warn!(
                        event = %"pod_connections_blocked", %vip, connections = arrived,
                        "Connections of Pods reach the virtual IP, none leaves this node"
                    );
                }
                (ForwardedTraffic::Blocked(_), ForwardedTraffic::Passing) => {
                    tracing::info!(
                        event = %"pod_connections_recovered", %vip,
                        "Connections of Pods leave this node again"
                    );
                }
                _ => {}
            }
            self.results.send_modify(|results| {
                if let Some(latest) = results.get_mut(vip) {
                    latest.pod_traffic = pod_traffic;
                }
            });
        }
    }

    /// Logs each change once.
    fn log(&mut self, vip: Vip, latest: &SelfTestResult) {
        let component = latest.by.map(Component::label);
        let backend = latest.backend.map(tracing::field::display);
        let news = match latest.outcome {
            Ok(_) => Some(latest.by.unwrap_or(Component::Unknown)),
            Err(_) if latest.failures == FAILURES => None,
            Err(_) => return,
        };
        if self.logged.insert(vip, news) == Some(news) {
            return;
        }
        match (latest.outcome, news) {
            (Err(failure), _) => {
                let (reason, detail) = (failure.label(), latest.by.map(Component::sentence));
                tracing::warn!(
                    event = %"selftest_failed", %vip, reason, component, backend, detail,
                    "Virtual IP does not answer this node"
                );
            }
            (Ok(took), Some(found)) if found.is_ours() => {
                let latency_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                tracing::info!(
                    event = %"selftest_passed", %vip, component, backend, latency_us,
                    "Virtual IP answers this node"
                );
            }
            (Ok(_), found) => {
                let detail = found.map(Component::sentence);
                tracing::warn!(
                    event = %"vip_served_by_other", %vip, component, backend, detail,
                    "Something other than apivip serves the virtual IP"
                );
            }
        }
    }
}
