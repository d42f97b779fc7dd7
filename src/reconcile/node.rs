//! The node's addresses and routes, as rules need them: the source address for each backend, and virtual IPs that are local.
//!
//! No commit waits for a lookup but the first one, and that not for long: lookups run concurrently, and what
//! they find that is new is programmed with another commit. A lookup that fails keeps the previous result.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::time::{sleep, timeout};

use super::{Reconciler, error_chain};
use crate::dataplane::{DataplaneError, Host};
use crate::model::desired::NodeView;
use crate::model::health::HealthView;

/// How long the first commit waits for the first lookup. One takes some 20 us for each backend, unless rtnetlink is locked.
const FIRST_LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay after a lookup that failed.
const LOOKUP_RETRY: Duration = Duration::from_secs(1);

/// The latest lookup of the node, and the one that is under way.
#[derive(Default)]
pub(super) struct NodeObserver {
    seen: Option<Observation>,
    lookup: Option<Lookup>,
    /// A lookup was requested while another one was under way, which may have been too early.
    due: bool,
    /// The first lookup was awaited.
    waited: bool,
    logged: Option<String>,
}

/// The node, as far as these addresses are concerned.
struct Observation {
    of: Addresses,
    node: NodeView,
}

struct Lookup {
    of: Addresses,
    answer: LocalBoxFuture<'static, Result<NodeView, DataplaneError>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Addresses {
    vips: BTreeSet<IpAddr>,
    backends: BTreeSet<IpAddr>,
}

impl NodeObserver {
    /// Requests a lookup, as soon as none is under way.
    pub fn request_lookup(&mut self) {
        self.due = true;
    }

    /// The latest result. It does not cover new addresses.
    pub fn node(&self) -> NodeView {
        self.seen.as_ref().map(|seen| seen.node.clone()).unwrap_or_default()
    }

    /// Resolves when the lookup that is under way is over. Cancel safe.
    pub async fn lookup_finished(&mut self) {
        let Some(lookup) = &mut self.lookup else { return std::future::pending().await };
        let outcome = (&mut lookup.answer).await;
        let Some(Lookup { of, .. }) = self.lookup.take() else { return };
        match outcome {
            Ok(node) => {
                self.seen = Some(Observation { of, node });
                self.logged = None;
            }
            Err(error) => {
                let text = error_chain(&error);
                if self.logged.as_ref() != Some(&text) {
                    tracing::warn!(
                        event = %"node_lookup_failed", error = %text,
                        "Failed to read addresses and routes, using the last known ones"
                    );
                }
                (self.logged, self.due) = (Some(text), true);
            }
        }
    }

    fn begin(&mut self, host: &impl Host, of: Addresses) {
        let view = host.view(of.vips.clone(), of.backends.clone());
        let wait = if self.logged.is_some() { LOOKUP_RETRY } else { Duration::ZERO };
        let answer = Box::pin(async move {
            // Even a sleep of no length takes the runtime's timer a millisecond.
            if !wait.is_zero() {
                sleep(wait).await;
            }
            view.await
        });
        (self.lookup, self.due) = (Some(Lookup { of, answer }), false);
    }
}

impl<D, H: Host, F, W> Reconciler<D, H, F, W> {
    /// The node as it is known now. Only the first lookup is awaited.
    pub(super) async fn node(&mut self, view: &HealthView) -> NodeView {
        if !self.node_observer.waited {
            self.node_observer.waited = true;
            self.look_up_node(view);
            if timeout(FIRST_LOOKUP_TIMEOUT, self.node_observer.lookup_finished()).await.is_err() {
                tracing::warn!(
                    event = %"node_lookup_timeout",
                    "Timed out reading addresses and routes, programming rules first"
                );
            }
        }
        self.node_observer.node()
    }

    /// Starts a lookup, if that is due, or if addresses are new.
    pub(super) fn look_up_node(&mut self, view: &HealthView) {
        let of = self.addresses(view);
        let known = self.node_observer.seen.as_ref().is_some_and(|seen| seen.of == of);
        if self.node_observer.lookup.is_none() && (self.node_observer.due || !known) {
            self.node_observer.begin(&self.host, of);
        }
    }

    /// Every address that the desired state may hold: published now, or programmed earlier and perhaps kept.
    fn addresses(&self, view: &HealthView) -> Addresses {
        let mut vips = view.snapshot.vip_addresses();
        let mut backends: BTreeSet<IpAddr> = view.snapshot.backends().iter().map(|b| b.ip()).collect();
        backends.extend(view.backends.keys().map(|b| b.ip()));
        if let Some(applied) = &self.effective {
            vips.extend(applied.frontends.iter().map(|f| f.vip.ip()));
            backends.extend(applied.backends().iter().map(|b| b.ip()));
        }
        Addresses { vips, backends }
    }
}
