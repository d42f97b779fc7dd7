//! A dataplane and a host without a kernel, for tests of what stands above them. They behave: what was applied can
//! be read back, a failure leaves the earlier state, and removing twice finds nothing the second time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::drift::{Drift, Found};
use super::{Applied, Dataplane, DataplaneError, Host};
use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Backend;
use crate::nftables::events::Culprit;
use crate::nftables::socket::NftError;
use crate::routes::HostError;
use crate::routes::local_vip::Claim;

/// How long it is waited for an answer that does not come.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What a test sees and sets. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Rc<RefCell<State>>, Rc<Notify>);

#[derive(Debug, Default)]
struct State {
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
    routing: Routing,
    /// Requests to rtnetlink.
    asked: u32,
    /// How often it was looked at.
    looks: u32,
    routes: BTreeSet<IpAddr>,
    claim: Option<Claim>,
    drift: Option<Drift>,
}

/// What rtnetlink does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Answers.
    #[default]
    Answers,
    /// Refuses them.
    Refuses,
    /// Lets them wait.
    Waits,
}

impl State {
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
        state.drift.get_or_insert_with(|| Drift::new(Found::Event)).blame(culprit);
        drop(state);
        self.1.notify_waiters();
    }

    /// Sets what the kernel's counter of a backend says.
    pub fn set_connections(&self, backend: Backend, count: u64) {
        self.0.borrow_mut().connections.insert(backend, count);
    }

    /// Which packets to virtual IPs come to this node's own sockets.
    pub fn claim(&self) -> Option<Claim> {
        self.0.borrow().claim
    }

    /// How often the node's addresses and routes were looked at.
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
    pub fn set_routing(&self, routing: Routing) {
        self.0.borrow_mut().routing = routing;
        self.1.notify_waiters();
    }

    /// How many requests to rtnetlink there were.
    pub fn asked(&self) -> u32 {
        self.0.borrow().asked
    }

    /// Answers a request to rtnetlink.
    async fn answer(&self, action: &str) -> Result<(), HostError> {
        self.0.borrow_mut().asked += 1;
        let failed = |source| Err(HostError { action: action.to_owned(), source, partial: false });
        let waits = async {
            loop {
                let told = self.1.notified();
                if self.0.borrow().routing != Routing::Waits {
                    return;
                }
                told.await;
            }
        };
        if timeout(UNANSWERED, waits).await.is_err() {
            return failed(io::Error::from(io::ErrorKind::TimedOut));
        }
        match self.0.borrow().routing {
            Routing::Answers => Ok(()),
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
            return Err(NftError::Refused { step: "commit the transaction".to_owned(), source }.into());
        }
        let connections_before = before.map(|state| kernel.counted(state)).unwrap_or_default();
        kernel.programmed = Some(state.clone());
        kernel.commits += 1;
        kernel.drift = None;
        Ok(Applied { connections_before, took: Duration::ZERO, steps: 1, owned: false })
    }

    async fn stands(&mut self) -> bool {
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
            let told = self.1.notified();
            if let Some(drift) = self.0.borrow().drift.clone() {
                return drift;
            }
            told.await;
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

    async fn claim(&mut self, _state: &DesiredState, claim: Claim) -> Result<(), DataplaneError> {
        self.answer("make a virtual IP local to this node").await?;
        self.0.borrow_mut().claim = Some(claim);
        Ok(())
    }

    async fn release(&mut self) -> Result<bool, DataplaneError> {
        self.answer("delete a routing rule").await?;
        Ok(self.0.borrow_mut().claim.take().is_some())
    }

    fn repaired(&mut self) -> usize {
        0
    }

    async fn changed(&mut self) {
        loop {
            let told = self.1.notified();
            if std::mem::take(&mut self.0.borrow_mut().changed) {
                return;
            }
            told.await;
        }
    }
}
