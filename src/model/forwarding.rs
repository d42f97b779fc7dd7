//! Whom the forwarder dials: the words that the reconciler tells it in. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::Affinity;
use super::types::{Backend, Vip};

/// Whom connections to one listening address go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// They share new connections.
    pub backends: Vec<Backend>,
    /// They are dialled in this order once all of `backends` failed: better than none.
    pub others: Vec<Backend>,
    /// How a client is tied to one of `backends`.
    pub affinity: Affinity,
}

/// All that the forwarder has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Connections to virtual IPs.
    pub vips: BTreeMap<Vip, Route>,
    /// Connections to node-local endpoints (`--listen`).
    pub local: Route,
    /// Connections to these are to be reset.
    pub ending: BTreeSet<Backend>,
}
