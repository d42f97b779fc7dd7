//! Asks every candidate apiserver whether it is alive, and publishes a [`HealthView`].
//!
//! In: snapshots, as whom to ask and whom to trust, how often to ask. Out: a view for each snapshot and for
//! each change of health, and one call of the [`Observer`] for each finished probe. What follows from a probe is
//! decided by [`crate::model::health::machine`]; here is the I/O.
//!
//! One task for each backend (`worker`) asks; one task (`scheduler`) owns the state machine and tells the others
//! how often. A worker keeps one connection open (`held`, `kept`) and makes fresh ones (`fresh`) when in doubt.
//!
//! What tells of an apiserver, the cheapest for it first: the end of the kept connection (its process died); the kernel's
//! keepalive, which the other host's kernel answers (its host died, or the way to it); pings, `OPTIONS *`, which its process answers
//! (it hangs); `/readyz` (it is not ready). Pings follow use: who opens connections to an apiserver that hangs is waiting for it,
//! and where nobody does, nobody is.
//!
//! Why `OPTIONS *` and no PING of HTTP/2: the HTTP server of Go answers it itself, so that it costs kube-apiserver a fifth of what
//! `/readyz` does, needs no credentials, and no stranger is sent away for it; it works over HTTP/1.1, too; and as a request it keeps
//! the connection open, which no PING does (seen on 1.37.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};

use crate::model::health::HealthView;
use crate::model::health::machine::HealthOptions;
use crate::model::published::Published;
use crate::model::types::Backend;
use crate::readyz::Identity;

mod beat;
mod failure;
mod fresh;
mod held;
mod kept;
mod metered;
mod ports;
mod request;
mod scheduler;
mod socket;
mod timetable;
mod view;
mod worker;

/// How to probe.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Between two probes of a backend that is Down, or to which no connection is kept. Each is up to a tenth longer or
    /// shorter, so that nodes do not march in step.
    pub interval: Duration,
    /// Between two pings on a kept-open connection to a backend that nobody uses, with the same jitter; each node begins
    /// elsewhere in it. kube-apiserver ends a connection that had no request for 90 s.
    pub ping_interval: Duration,
    /// Between two questions for `/readyz` on a kept-open connection, with the same jitter.
    pub readyz_interval: Duration,
    /// The name that the certificate must carry.
    pub server_name: ServerName<'static>,
    /// When a backend changes its state.
    pub health: HealthOptions,
}

/// Is told of every finished probe.
pub trait Observer: Send + Sync {
    /// `outcome` is `ready`, `alive`, `unready`, or the label of a failure.
    fn probed(&self, outcome: &'static str, took: Duration);
}

/// What this node's kernel knows of a connection of this process.
pub trait Kernel: Send + Sync {
    /// How long ago a segment of the other end arrived last, on the connection from `own` to `peer`; `None` if the kernel
    /// does not say.
    fn heard(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration>;
}

/// Knows nothing.
impl Kernel for () {
    fn heard(&self, _: SocketAddr, _: SocketAddr) -> Option<Duration> {
        None
    }
}

/// Takes no notice.
impl Observer for () {
    fn probed(&self, _: &'static str, _: Duration) {}
}

/// What goes in besides the snapshots.
pub struct Inputs {
    /// As whom to ask. When the CA changes, the next handshake uses the new one, and open connections stay; when the
    /// credentials change, connections are replaced within seconds.
    pub identity: watch::Receiver<Identity>,
    /// Backends that could not be reached by somebody else; they are asked at once.
    pub suspects: mpsc::UnboundedReceiver<Backend>,
    /// Backends to which connections were just led: whether their processes answer is asked at once, and not more often
    /// than five times a second.
    pub in_use: mpsc::UnboundedReceiver<Backend>,
    /// This node's kernel.
    pub kernel: Arc<dyn Kernel>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

/// Probes until `published` closes or nobody receives `views`.
///
/// A view with a new snapshot is sent at once, before anything of it is probed.
pub async fn run(
    config: ProbeConfig,
    inputs: Inputs,
    published: watch::Receiver<Option<Published>>,
    views: watch::Sender<Option<HealthView>>,
) {
    scheduler::Scheduler::new(config, inputs, views).run(published).await;
}

#[cfg(test)]
mod tests;
