//! A dataplane, a host and a [`FlowKiller`] without a kernel, for tests of what stands above them. They behave: what was
//! applied can be read back, a failure leaves the earlier state, and removing twice finds nothing the second time. An order
//! is under way until the test finishes it, one to end flows that is cancelled is reported as such, and a new one for the
//! same backend that is not weaker takes its place.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::flows::{FlowKiller, FlowOrder, FlowReport, Purpose, StaleFlows};
use super::{
    Applied, Culprit, Dataplane, DataplaneError, Drift, DriftSource, Host, KernelErrorKind, LocalVip,
};
use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Backend;

/// How long it is waited for an answer that does not come.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What a test sees and sets. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Rc<RefCell<KernelState>>, Rc<Notify>);

#[derive(Debug, Default)]
struct KernelState {
    programmed: Option<DesiredState>,
    commits: u32,
    refreshed: Vec<BTreeSet<Backend>>,
    failing: bool,
    blocked: bool,
    /// Commits get no answer in time.
    unanswered: bool,
    /// The commit that got none last, and may happen still.
    late: Option<DesiredState>,
    connections: BTreeMap<Backend, u64>,
    node: NodeView,
    /// The node has changed since that was asked for last.
    changed: bool,
    routing: RtnetlinkMode,
    /// Requests to rtnetlink.
    asked: u32,
    /// How often the node was read.
    looks: u32,
    routes: BTreeSet<IpAddr>,
    local_vip: Option<LocalVip>,
    drift: Option<Drift>,
}

/// What rtnetlink does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtnetlinkMode {
    /// Answers.
    #[default]
    Answers,
    /// Refuses them.
    Refuses,
    /// Lets them wait.
    Waits,
}

/// As the kernel's own errors read.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
struct FakeError {
    action: String,
    source: io::Error,
}

impl KernelState {
    fn counted(&self, state: &DesiredState) -> BTreeMap<Backend, u64> {
        let wanted = state.backends();
        self.connections.iter().filter(|(b, _)| wanted.contains(b)).map(|(b, n)| (*b, *n)).collect()
    }
}

impl FakeKernel {
    /// What is programmed now.
    pub fn programmed(&self) -> Option<DesiredState> {
        self.0.borrow().programmed.clone()
    }

    /// How many states were programmed so far.
    pub fn commits(&self) -> u32 {
        self.0.borrow().commits
    }

    /// Whom it was to go on taking for dead, each time.
    pub fn refreshed(&self) -> Vec<BTreeSet<Backend>> {
        self.0.borrow().refreshed.clone()
    }

    /// From now on refuse (or take) commits.
    pub fn set_failing(&self, failing: bool) {
        self.0.borrow_mut().failing = failing;
    }

    /// From now on let commits wait for another program's (or no longer).
    pub fn set_blocked(&self, blocked: bool) {
        self.0.borrow_mut().blocked = blocked;
        self.1.notify_waiters();
    }

    /// From now on let commits go without an answer (or no longer).
    pub fn set_unanswered(&self, unanswered: bool) {
        self.0.borrow_mut().unanswered = unanswered;
    }

    /// The commit that got no answer last happens after all.
    pub fn commit_late(&self) {
        let mut state = self.0.borrow_mut();
        if let Some(late) = state.late.take() {
            state.programmed = Some(late);
        }
    }

    /// Another program changes what is programmed, until it is programmed again.
    pub fn disturb(&self, culprit: Culprit) {
        let mut state = self.0.borrow_mut();
        state.programmed = None;
        state.drift.get_or_insert_with(|| Drift::new(DriftSource::Event)).blame(culprit);
        drop(state);
        self.1.notify_waiters();
    }

    /// Sets what the kernel's counter of a backend says.
    pub fn set_connections(&self, backend: Backend, count: u64) {
        self.0.borrow_mut().connections.insert(backend, count);
    }

    /// Which packets to virtual IPs come to this node's own sockets.
    pub fn local_vip(&self) -> Option<LocalVip> {
        self.0.borrow().local_vip
    }

    /// How often the node's addresses and routes were read.
    pub fn looks(&self) -> u32 {
        self.0.borrow().looks
    }

    /// Sets the node's addresses and routes.
    pub fn set_node(&self, node: NodeView) {
        let mut state = self.0.borrow_mut();
        (state.node, state.changed) = (node, true);
        drop(state);
        self.1.notify_waiters();
    }

    /// From now on let rtnetlink do this with requests. Those that wait are given up after 5 s.
    pub fn set_routing(&self, routing: RtnetlinkMode) {
        self.0.borrow_mut().routing = routing;
        self.1.notify_waiters();
    }

    /// How many requests to rtnetlink there were.
    pub fn asked(&self) -> u32 {
        self.0.borrow().asked
    }

    /// Answers a request to rtnetlink.
    async fn answer(&self, action: &str) -> Result<(), DataplaneError> {
        self.0.borrow_mut().asked += 1;
        let failed = |source| {
            let error = FakeError { action: action.to_owned(), source };
            Err(DataplaneError::kernel(KernelErrorKind::Routes { partial: false }, error))
        };
        let waits = async {
            loop {
                let notified = self.1.notified();
                if self.0.borrow().routing != RtnetlinkMode::Waits {
                    return;
                }
                notified.await;
            }
        };
        if timeout(UNANSWERED, waits).await.is_err() {
            return failed(io::Error::from(io::ErrorKind::TimedOut));
        }
        match self.0.borrow().routing {
            RtnetlinkMode::Answers => Ok(()),
            _ => failed(io::Error::from(io::ErrorKind::OutOfMemory)),
        }
    }
}

impl Dataplane for FakeKernel {
    async fn apply(
        &mut self,
        state: &DesiredState,
        before: Option<&DesiredState>,
    ) -> Result<Applied, DataplaneError> {
        while self.0.borrow().blocked {
            self.1.notified().await;
        }
        if self.0.borrow().unanswered {
            sleep(UNANSWERED).await;
            self.0.borrow_mut().late = Some(state.clone());
            return Err(DataplaneError::TimedOut(UNANSWERED));
        }
        let mut kernel = self.0.borrow_mut();
        if kernel.failing {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            let action = "nf_tables refused to commit the transaction".to_owned();
            return Err(DataplaneError::kernel(KernelErrorKind::Refused, FakeError { action, source }));
        }
        let connections_before = before.map(|state| kernel.counted(state)).unwrap_or_default();
        kernel.programmed = Some(state.clone());
        kernel.commits += 1;
        kernel.drift = None;
        Ok(Applied { connections_before, took: Duration::ZERO, steps: 1, owned: false })
    }

    async fn is_installed(&mut self) -> bool {
        self.0.borrow().programmed.is_some()
    }

    async fn refresh(&mut self, dead: &BTreeSet<Backend>) -> Result<(), DataplaneError> {
        while self.0.borrow().blocked {
            self.1.notified().await;
        }
        self.0.borrow_mut().refreshed.push(dead.clone());
        Ok(())
    }

    async fn connections(&mut self, state: &DesiredState) -> Result<BTreeMap<Backend, u64>, DataplaneError> {
        Ok(self.0.borrow().counted(state))
    }

    async fn drifted(&mut self) -> Drift {
        loop {
            let notified = self.1.notified();
            if let Some(drift) = self.0.borrow().drift.clone() {
                return drift;
            }
            notified.await;
        }
    }

    async fn remove(&mut self) -> Result<bool, DataplaneError> {
        Ok(self.0.borrow_mut().programmed.take().is_some())
    }
}

impl Host for FakeKernel {
    fn view(
        &self,
        _vips: BTreeSet<IpAddr>,
        _backends: BTreeSet<IpAddr>,
    ) -> LocalBoxFuture<'static, Result<NodeView, DataplaneError>> {
        let kernel = self.clone();
        Box::pin(async move {
            kernel.0.borrow_mut().looks += 1;
            kernel.answer("look up a route").await?;
            Ok(kernel.0.borrow().node.clone())
        })
    }

    async fn ensure_routes(&mut self, state: &DesiredState) -> Result<(), DataplaneError> {
        self.answer("list the node's routes").await?;
        self.0.borrow_mut().routes = state.frontends.iter().map(|f| f.vip.ip()).collect();
        Ok(())
    }

    async fn remove_routes(&mut self) -> Result<Vec<IpAddr>, DataplaneError> {
        Ok(std::mem::take(&mut self.0.borrow_mut().routes).into_iter().collect())
    }

    async fn acquire_local_vips(
        &mut self,
        _state: &DesiredState,
        packets: LocalVip,
    ) -> Result<(), DataplaneError> {
        self.answer("make a virtual IP local to this node").await?;
        self.0.borrow_mut().local_vip = Some(packets);
        Ok(())
    }

    async fn release_local_vips(&mut self) -> Result<bool, DataplaneError> {
        self.answer("delete a routing rule").await?;
        Ok(self.0.borrow_mut().local_vip.take().is_some())
    }

    fn repaired(&mut self) -> usize {
        0
    }

    async fn changed(&mut self) {
        loop {
            let notified = self.1.notified();
            if std::mem::take(&mut self.0.borrow_mut().changed) {
                return;
            }
            notified.await;
        }
    }
}

/// What a test sees and sets. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FakeFlows(Rc<SharedFlows>);

#[derive(Debug, Default)]
struct SharedFlows {
    state: RefCell<FlowsState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct FlowsState {
    orders: Vec<FlowOrder>,
    under_way: Vec<FlowOrder>,
    finished: VecDeque<FlowReport>,
    forgotten: Vec<StaleFlows>,
}

impl FakeFlows {
    /// Every order so far, oldest first.
    pub fn orders(&self) -> Vec<FlowOrder> {
        self.0.state.borrow().orders.clone()
    }

    /// Connections that were to be forgotten, one for each virtual IP and time.
    pub fn forgotten(&self) -> Vec<StaleFlows> {
        self.0.state.borrow().forgotten.clone()
    }

    /// The orders that are under way.
    pub fn under_way(&self) -> Vec<FlowOrder> {
        self.0.state.borrow().under_way.clone()
    }

    /// Finishes the order for a backend; `change` may fill the report in. `false`: there is none.
    pub fn finish(&self, backend: Backend, change: impl FnOnce(&mut FlowReport)) -> bool {
        let mut state = self.0.state.borrow_mut();
        let Some(at) = state.under_way.iter().position(|order| order.backend == backend) else {
            return false;
        };
        let order = state.under_way.remove(at);
        let mut report = FlowReport::new(backend, order.purpose);
        change(&mut report);
        state.finished.push_back(report);
        self.0.changed.notify_one();
        true
    }
}

impl FlowKiller for FakeFlows {
    fn start(&mut self, order: FlowOrder) {
        let mut state = self.0.state.borrow_mut();
        state.orders.push(order.clone());
        let at = state.under_way.iter().position(|other| other.backend == order.backend);
        match at.and_then(|at| state.under_way.get_mut(at)) {
            Some(other) if order.purpose.is_weaker_than(other.purpose) => {}
            Some(other) => *other = order,
            None => state.under_way.push(order),
        }
    }

    fn cancel(&mut self, backend: Backend) {
        if self.under_way().iter().any(|order| order.backend == backend && order.purpose.ends()) {
            self.finish(backend, |report| report.cancelled = true);
        }
    }

    fn stop_rerouting(&mut self, backend: Backend) {
        if self.under_way().iter().any(|order| order.backend == backend && order.purpose == Purpose::Reroute)
        {
            self.finish(backend, |report| report.cancelled = true);
        }
    }

    fn delete_stale(&mut self, stale: Vec<StaleFlows>) {
        self.0.state.borrow_mut().forgotten.extend(stale);
    }

    async fn finished(&mut self) -> FlowReport {
        loop {
            let report = self.0.state.borrow_mut().finished.pop_front();
            match report {
                Some(report) => return report,
                None => self.0.changed.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_is_under_way_until_finished_or_cancelled() {
        let order = |last: u8| FlowOrder {
            backend: format!("192.0.2.{last}:6443").parse().unwrap(),
            vips: vec!["10.96.0.1:443".parse().unwrap()],
            purpose: Purpose::Reset { own_reset: false },
        };
        let fake = FakeFlows::default();
        let mut flows = fake.clone();
        flows.start(order(11));
        flows.start(order(11));
        flows.start(order(12));
        assert_eq!((fake.orders().len(), fake.under_way().len()), (3, 2));
        assert!(fake.finish(order(12).backend, |report| report.flows = 7));
        assert!(!fake.finish(order(12).backend, |_| {}));
        assert_eq!(flows.finished().await.flows, 7);
        flows.cancel(order(11).backend);
        assert!(flows.finished().await.cancelled);
        assert!(fake.under_way().is_empty());
    }

    #[tokio::test]
    async fn stronger_order_stays_and_only_end_is_cancelled() {
        let backend: Backend = "192.0.2.11:6443".parse().unwrap();
        let order = |purpose| FlowOrder { backend, vips: Vec::new(), purpose };
        let fake = FakeFlows::default();
        let mut flows = fake.clone();
        for (given, stands) in [
            (Purpose::Challenge, Purpose::Challenge),
            (Purpose::Reroute, Purpose::Challenge),
            (Purpose::Reset { own_reset: true }, Purpose::Reset { own_reset: true }),
            (Purpose::Reset { own_reset: false }, Purpose::Reset { own_reset: false }),
            (Purpose::Challenge, Purpose::Reset { own_reset: false }),
        ] {
            if given == Purpose::Reroute {
                flows.cancel(backend);
            }
            flows.start(order(given));
            assert_eq!(fake.under_way(), [order(stands)], "{given:?}");
        }
        flows.cancel(backend);
        assert_eq!(flows.finished().await.purpose, Purpose::Reset { own_reset: false });
    }
}
