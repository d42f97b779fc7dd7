//! A [`Forward`] without sockets, for tests of the reconciler. It behaves like the real one: routes can be read back, a
//! failure to serve leaves what was served, and it is emptied when the last connection ends.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{Forward, ForwarderError};
use crate::model::proxy_routes::ProxyRoutes;
use crate::model::types::Vip;

/// Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakeForwarder(Rc<FakeShared>);

#[derive(Debug, Default)]
struct FakeShared {
    state: RefCell<FakeState>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct FakeState {
    routes: Option<Arc<ProxyRoutes>>,
    served: BTreeSet<Vip>,
    withdrawals: u32,
    connections: usize,
    failing: bool,
}

impl FakeForwarder {
    /// The latest routes.
    pub fn routes(&self) -> Option<Arc<ProxyRoutes>> {
        self.0.state.borrow().routes.clone()
    }

    /// The virtual IPs that are served now.
    pub fn served(&self) -> BTreeSet<Vip> {
        self.0.state.borrow().served.clone()
    }

    /// How often it was withdrawn while it served something.
    pub fn withdrawals(&self) -> u32 {
        self.0.state.borrow().withdrawals
    }

    /// From now on fails (or not) to serve virtual IPs that are not served yet.
    pub fn set_failing(&self, failing: bool) {
        self.0.state.borrow_mut().failing = failing;
    }

    /// Sets how many connections through virtual IPs are open; when the last one ends it is emptied.
    pub fn set_connections(&self, count: usize) {
        let before = std::mem::replace(&mut self.0.state.borrow_mut().connections, count);
        if before > 0 && count == 0 {
            self.0.emptied.notify_one();
        }
    }
}

impl Forward for FakeForwarder {
    fn route(&mut self, routes: Arc<ProxyRoutes>) {
        self.0.state.borrow_mut().routes = Some(routes);
    }

    async fn serve(&mut self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        let mut state = self.0.state.borrow_mut();
        if let Some(vip) = vips.difference(&state.served).next()
            && state.failing
        {
            let refused = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(ForwarderError::Listen { address: *vip, source: refused });
        }
        state.served.clone_from(vips);
        Ok(())
    }

    async fn withdraw(&mut self) {
        let mut state = self.0.state.borrow_mut();
        if !std::mem::take(&mut state.served).is_empty() {
            state.withdrawals += 1;
            if state.connections == 0 {
                self.0.emptied.notify_one();
            }
        }
    }

    fn vip_connections(&self) -> usize {
        self.0.state.borrow().connections
    }

    async fn emptied(&mut self) {
        self.0.emptied.notified().await;
    }
}
