//! Snapshot + last good state + what the node looks like -> [`DesiredState`], the input of every dataplane.
//!
//! Fail-open lives here and nowhere else: a view without backends never empties the ones that were programmed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::cidr::Cidr;
use super::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use super::types::{Backend, ServiceKey, Vip};

/// Everything a node is programmed with. Equal states program nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// The Service whose virtual IPs these are.
    pub service: ServiceKey,
    /// Frontends with at least one backend, ordered by virtual IP.
    pub frontends: Vec<DesiredFrontend>,
    /// What happens to source addresses.
    pub source: SourcePolicy,
}

/// One virtual IP and port that is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Address and TCP port that clients dial.
    pub vip: Vip,
    /// The name of the Service's port; may be empty.
    pub port_name: String,
    /// How a client is tied to a backend.
    pub affinity: Affinity,
    /// At least one backend, ordered, each once.
    pub backends: Vec<Backend>,
    /// Leave a flow alone while a local route of this node owns the virtual IP.
    pub guard: bool,
}

/// When the source address of a redirected flow is replaced by the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Masquerade {
    /// Where the source would be wrong: hairpin, host traffic with another interface's address, and clients
    /// outside the cluster CIDRs when these are given.
    #[default]
    Auto,
    /// Every pod's as well.
    Always,
    /// Never, not even where replies will not come back.
    Never,
}

/// What happens to source addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    /// The rule.
    pub masquerade: Masquerade,
    /// Ranges whose addresses stay. Empty: every pod's address stays.
    pub cluster_cidrs: Vec<Cidr>,
    /// The source address that the kernel's routes give host traffic to each backend.
    pub preferred: BTreeMap<IpAddr, PreferredSource>,
}

/// Answer of the kernel's route lookup for one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferredSource {
    /// Host traffic to the backend must carry this address.
    Address(IpAddr),
    /// The backend is an address of this node: any local source will do.
    Local,
}

/// What the desired state depends on besides the API's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Source addresses by backend address; a backend that is absent has no known route.
    pub preferred: BTreeMap<IpAddr, PreferredSource>,
    /// Virtual IPs that another component bound to an interface (kube-proxy in IPVS mode).
    pub taken_vips: BTreeSet<IpAddr>,
}

/// What the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The Service.
    pub service: ServiceKey,
    /// `--masquerade`.
    pub masquerade: Masquerade,
    /// `--cluster-cidr`.
    pub cluster_cidrs: Vec<Cidr>,
}

/// Why something that was programmed earlier stays although the API no longer says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Hold {
    /// The API says that the Service does not exist.
    ServiceMissing,
    /// The Service has no ClusterIP.
    ServiceHeadless,
    /// The Service has no ClusterIP and TCP port that can be programmed.
    ServiceUnusable,
    /// No endpoint of this virtual IP and port is left.
    NoEndpoints {
        /// The frontend.
        vip: Vip,
        /// Whether earlier backends stay in place. If not, the virtual IP is left to whoever serves it.
        kept: bool,
    },
}

impl Hold {
    /// Whether earlier rules stay in place.
    pub fn keeps(&self) -> bool {
        !matches!(self, Self::NoEndpoints { kept: false, .. })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceMissing => f.write_str("the Service does not exist; the last good rules stay"),
            Self::ServiceHeadless => f.write_str("the Service has no ClusterIP; the last good rules stay"),
            Self::ServiceUnusable => {
                f.write_str("the Service has no usable ClusterIP and TCP port; the last good rules stay")
            }
            Self::NoEndpoints { vip, kept: true } => {
                write!(f, "no endpoint of {vip} is published; its last good backends stay")
            }
            Self::NoEndpoints { vip, kept: false } => {
                write!(f, "no endpoint of {vip} is known; the address is left alone")
            }
        }
    }
}

impl DesiredState {
    /// Every backend of every frontend, each once.
    pub fn backends(&self) -> BTreeSet<Backend> {
        self.frontends.iter().flat_map(|f| f.backends.iter().copied()).collect()
    }
}

/// Computes the desired state. `last` is the one that was programmed last, if any.
pub fn desire(
    snapshot: &Snapshot,
    last: Option<&DesiredState>,
    node: &NodeView,
    policy: &Policy,
) -> (DesiredState, Vec<Hold>) {
    let earlier = last.map_or(&[][..], |state| &state.frontends);
    let mut holds = Vec::new();
    let frontends = match snapshot.service {
        ServiceStatus::Found => {
            snapshot.frontends.iter().filter_map(|f| frontend(f, earlier, &mut holds)).collect()
        }
        ServiceStatus::Missing => keep(earlier, Hold::ServiceMissing, &mut holds),
        ServiceStatus::Headless => keep(earlier, Hold::ServiceHeadless, &mut holds),
        ServiceStatus::Unusable => keep(earlier, Hold::ServiceUnusable, &mut holds),
    };
    (assemble(frontends, node, policy), holds)
}

fn keep(earlier: &[DesiredFrontend], hold: Hold, holds: &mut Vec<Hold>) -> Vec<DesiredFrontend> {
    holds.push(hold);
    earlier.to_vec()
}

fn frontend(
    published: &Frontend,
    earlier: &[DesiredFrontend],
    holds: &mut Vec<Hold>,
) -> Option<DesiredFrontend> {
    let backends = if published.backends.is_empty() {
        let kept = earlier.iter().find(|e| e.vip == published.vip).map(|e| e.backends.clone());
        holds.push(Hold::NoEndpoints { vip: published.vip, kept: kept.is_some() });
        kept?
    } else {
        published.backends.clone()
    };
    Some(DesiredFrontend {
        vip: published.vip,
        port_name: published.port_name.clone(),
        affinity: published.affinity,
        backends,
        guard: true,
    })
}

fn assemble(mut frontends: Vec<DesiredFrontend>, node: &NodeView, policy: &Policy) -> DesiredState {
    for frontend in &mut frontends {
        frontend.guard = !node.taken_vips.contains(&frontend.vip.ip());
    }
    let used: BTreeSet<IpAddr> = frontends.iter().flat_map(|f| &f.backends).map(|b| b.ip()).collect();
    let preferred = match policy.masquerade {
        Masquerade::Never => BTreeMap::new(),
        _ => node.preferred.iter().filter(|(ip, _)| used.contains(ip)).map(|(k, v)| (*k, *v)).collect(),
    };
    DesiredState {
        service: policy.service.clone(),
        frontends,
        source: SourcePolicy {
            masquerade: policy.masquerade,
            cluster_cidrs: policy.cluster_cidrs.clone(),
            preferred,
        },
    }
}

#[cfg(test)]
mod tests;
