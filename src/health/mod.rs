//! Probes every candidate API server, and publishes a [`HealthView`].
//!
//! In: snapshots, as whom to ask and whom to trust, how often to ask. Out: a view for each snapshot and for
//! each change of health, and one call of the [`ProbeObserver`] for each finished probe.
//!
//! What follows is decided by pure code: [`detector`] knows all backends, `tracker` one of them over time, `failures` what speaks
//! for leaving the path, `silence` what it takes to end established connections, `directive` how to ask. The rest is I/O: one task
//! for each backend (`prober`) asks; one task (`scheduler`) owns the detector and tells the others how often. A prober keeps one
//! connection open (`held`, `kept`) and makes fresh ones (`fresh`, `dials`) when in doubt; `path` watches what clients' own
//! connections show.
//!
//! What tells of an apiserver, the cheapest for it first: the end of the kept connection (its process died); the kernel's
//! keepalive, which the other host's kernel answers (its host died, or the way to it); pings, `OPTIONS *`, which its process answers
//! (it hangs); `/readyz` (it is not ready). Pings follow use: who opens connections to an apiserver that hangs is waiting for it,
//! and where nobody does, nobody is.
//!
//! Why `OPTIONS *` and no PING of HTTP/2: the HTTP server of Go answers it itself, so that it costs kube-apiserver a fifth of what
//! `/readyz` does, needs no credentials, and no stranger is sent away for it; it works over HTTP/1.1, too; and as a request it keeps
//! the connection open, which no PING does (seen on 1.37.2).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};

use crate::model::health::{HealthOptions, HealthView};
use crate::model::snapshot::PublishedSnapshot;
use crate::model::types::{Backend, Vip};
use crate::transport::readyz::Identity;

mod connection;
pub mod detector;
mod evidence;
mod monitor;
mod probe;
mod prober;
mod schedule;
mod socket;
mod tracker;
mod view;

pub use evidence::ChallengeOutcome;

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

/// Is notified of every finished probe.
pub trait ProbeObserver: Send + Sync {
    /// `outcome` is `ready`, `alive`, `unready`, or the label of a failure.
    fn probed(&self, outcome: &'static str, took: Duration);
}

/// What this node's kernel knows of a socket of this process (`tcpi_last_ack_recv`).
pub trait SocketInfo: Send + Sync {
    /// How long ago a segment of the other end arrived last, on the connection from `own` to `peer`; `None` if the kernel
    /// does not say.
    fn last_segment_age(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration>;
}

/// Knows nothing.
impl SocketInfo for () {
    fn last_segment_age(&self, _: SocketAddr, _: SocketAddr) -> Option<Duration> {
        None
    }
}

/// Observes and challenges clients' own connections to a backend.
pub trait ClientFlowMonitor: Send + Sync {
    /// Each item is a segment, or several, that arrived from the backend: with data or without.
    fn watch(&self, backend: Backend) -> io::Result<BoxStream<'static, bool>>;

    /// Challenges the backend's kernel on a few connections from these virtual IPs. Whether it answers is observed by
    /// [`Self::watch`].
    fn challenge(&self, backend: Backend, vips: Vec<Vip>) -> BoxFuture<'static, ChallengeOutcome>;
}

/// Sees nothing.
impl ClientFlowMonitor for () {
    fn watch(&self, _: Backend) -> io::Result<BoxStream<'static, bool>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn challenge(&self, _: Backend, _: Vec<Vip>) -> BoxFuture<'static, ChallengeOutcome> {
        std::future::ready(ChallengeOutcome::Impossible).boxed()
    }
}

/// Takes no notice.
impl ProbeObserver for () {
    fn probed(&self, _: &'static str, _: Duration) {}
}

/// What goes in besides the snapshots.
pub struct Inputs {
    /// The identity to use. When the CA changes, the next handshake uses the new one, and open connections stay; when the
    /// credentials change, connections are replaced within seconds.
    pub identity: watch::Receiver<Identity>,
    /// Backends that could not be reached by somebody else; they are asked at once.
    pub suspects: mpsc::UnboundedReceiver<Backend>,
    /// Backends to which connections were just led: whether their processes answer is asked at once, and not more often
    /// than five times a second.
    pub in_use: mpsc::UnboundedReceiver<Backend>,
    /// This node's kernel.
    pub kernel: Arc<dyn SocketInfo>,
    /// What clients' own connections show.
    pub clients: Arc<dyn ClientFlowMonitor>,
    /// Who counts.
    pub observer: Arc<dyn ProbeObserver>,
}

/// Probes until `published` closes or nobody receives `views`.
///
/// A view with a new snapshot is sent at once, before anything of it is probed.
pub async fn run(
    config: ProbeConfig,
    inputs: Inputs,
    published: watch::Receiver<Option<PublishedSnapshot>>,
    views: watch::Sender<Option<HealthView>>,
) {
    monitor::HealthMonitor::new(config, inputs, views).run(published).await;
}

#[cfg(test)]
mod tests;
