//! Probes every candidate API server, and publishes a [`HealthView`].
//!
//! In: snapshots, the identity and the CA to trust, the probe intervals. Out: a view for each snapshot and for
//! each change of health, and one call of the [`ProbeObserver`] for each finished probe.
//!
//! Decisions are made by pure code: [`detector`] knows all backends, `tracker` is the state machine of one,
//! `evidence` says what it takes to leave the rotation and to terminate established connections. The rest is I/O: one
//! task for each backend (`prober`) sends requests; one task (`monitor`) owns the detector and directs the probers. A
//! prober keeps one connection open (`connection`) and makes fresh ones (`probe`) when in doubt, at times that
//! `schedule` plans; `monitor` also watches clients' own connections.
//!
//! The signals of an API server's health, the cheapest for it first: the end of the kept connection (its process
//! died); the kernel's keepalive, which the other host's kernel answers (its host or the network path failed); pings,
//! `OPTIONS *`, which its process answers (it hangs); `/readyz` (it is not ready). Pings follow use: a client that
//! opens connections to a hanging API server waits for it, and without clients nobody waits.
//!
//! Why `OPTIONS *` and no PING of HTTP/2: the HTTP server of Go answers it itself, so that it costs kube-apiserver a
//! fifth of what `/readyz` does, needs no credentials, and does not close an unauthenticated client's connection; it
//! works over HTTP/1.1, too; and as a request it keeps the connection open, which no PING does (seen on 1.37.2).

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
    /// shorter, so that nodes do not probe in step.
    pub interval: Duration,
    /// Between two pings on a kept-open connection to a backend that is not in use, with the same jitter; each node begins
    /// at another point of it. kube-apiserver ends a connection that had no request for 90 s.
    pub ping_interval: Duration,
    /// Between two requests for `/readyz` on a kept-open connection, with the same jitter.
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
    /// Backends that the forwarder could not reach; they are probed at once.
    pub suspects: mpsc::UnboundedReceiver<Backend>,
    /// Backends to which connections were just opened: they are pinged at once, and not more often
    /// than five times a second.
    pub in_use: mpsc::UnboundedReceiver<Backend>,
    /// This node's kernel.
    pub kernel: Arc<dyn SocketInfo>,
    /// What clients' own connections.
    pub clients: Arc<dyn ClientFlowMonitor>,
    /// Who counts.
    pub observer: Arc<dyn ProbeObserver>,
}

/// Probes until `published` closes or `views` has no receiver.
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
