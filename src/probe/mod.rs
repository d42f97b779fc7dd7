//! Asks every candidate apiserver whether it is alive, and publishes a [`HealthView`].
//!
//! In: snapshots, the TLS settings that trust the cluster's CA, how often to ask. Out: a view for each snapshot and for
//! each change of health, and one call of the [`Observer`] for each finished probe. What follows from a probe is
//! decided by [`crate::model::health::machine`]; here is the I/O.
//!
//! One task for each backend (`worker`) asks; one task (`scheduler`) owns the state machine and tells the others
//! how often. A worker keeps one connection open (`kept`) and makes fresh ones (`fresh`) when in doubt.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};

use crate::model::health::HealthView;
use crate::model::health::machine::HealthOptions;
use crate::model::published::Published;
use crate::model::types::Backend;

mod beat;
mod failure;
mod fresh;
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
    /// Between two PINGs on a kept-open connection, and between two probes of a backend that is Down. Each is up to
    /// a tenth longer or shorter, and each node begins elsewhere in it, so that nodes do not march in step.
    pub interval: Duration,
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

/// Takes no notice.
impl Observer for () {
    fn probed(&self, _: &'static str, _: Duration) {}
}

/// Probes until `published` closes or nobody receives `views`.
///
/// A view with a new snapshot is sent at once, before anything of it is probed. `trust` holds a client configuration
/// without client certificate; when it changes, the next handshake uses the new one, and open connections stay. Backends
/// from `suspects` could not be reached by somebody else, and are asked at once.
pub async fn run(
    config: ProbeConfig,
    trust: watch::Receiver<Arc<ClientConfig>>,
    published: watch::Receiver<Option<Published>>,
    views: watch::Sender<Option<HealthView>>,
    suspects: mpsc::UnboundedReceiver<Backend>,
    observer: Arc<dyn Observer>,
) {
    scheduler::Scheduler::new(config, trust, views, suspects, observer).run(published).await;
}

#[cfg(test)]
mod tests;
