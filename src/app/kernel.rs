//! What this node's kernel tells probes of their connections.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::dataplane::flows::lookup::OwnConnections;
use crate::health::Kernel;

/// This node. What its kernel does not tell is no evidence, and no reason not to start.
pub(super) struct OwnKernel(Mutex<Option<OwnConnections>>);

impl OwnKernel {
    pub(super) fn open() -> Self {
        let opened = OwnConnections::open().inspect_err(|error| {
            tracing::debug!(%error, "probes cannot ask the kernel for their connections");
        });
        Self(Mutex::new(opened.ok()))
    }
}

impl Kernel for OwnKernel {
    fn heard(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = connections.as_mut()?.acknowledged(own, peer);
        heard.inspect_err(|error| tracing::debug!(%error, %peer, "ask for a probe's connection")).ok()?
    }
}
