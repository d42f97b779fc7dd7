//! What the node is to the rules: which of its addresses is right for each backend, and which virtual IPs it has itself.
//!
//! A repair does not ask again: it makes what stood before, and the kernel tells when the node has changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Reconciler;
use crate::dataplane::flows::FlowKiller;
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::forwarder::Forward;
use crate::model::desired::NodeView;
use crate::model::health::HealthView;

/// The node, as far as these addresses are concerned.
pub(super) struct Seen {
    of: Addresses,
    node: NodeView,
}

#[derive(Clone, PartialEq, Eq)]
struct Addresses {
    vips: BTreeSet<IpAddr>,
    backends: BTreeSet<IpAddr>,
}

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    /// The node as it is now, or as it was seen last where rules are to be made again.
    pub(super) async fn node(&mut self, view: &HealthView) -> Result<NodeView, DataplaneError> {
        let of = self.addresses(view);
        match &self.seen {
            Some(seen) if self.mender.is_due() && seen.of == of => Ok(seen.node.clone()),
            _ => {
                let node = self.host.view(&of.vips, &of.backends).await?;
                self.seen = Some(Seen { of, node: node.clone() });
                Ok(node)
            }
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
