//! The Kubernetes API as apivip reads it: one Service and its endpoints, kept current.
//!
//! In: [`Access`], and which Service. Out: a [`PublishedSnapshot`] snapshot after every change that matters to a node, and the
//! state of the [`Connection`]. Nothing is published before both first lists are complete, and nothing that is read
//! later ever takes the view back in time. The client dials the endpoints that it reads about, and what seeds and saved
//! state name; never the virtual IP.
//!
//! One session is one connection (two with HTTP/1.1). Whatever goes wrong ends the session: the next one dials the
//! next apiserver, with fresh credentials, and resumes where the last one stopped. If only one collection is refused, the
//! other is followed until then. A session that nothing goes wrong with is moved to another apiserver now and then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};

use crate::model::health::HealthView;
use crate::model::snapshot::PublishedSnapshot;
use crate::model::snapshot::SnapshotOptions;
use crate::model::sources::FallbackEndpoints;
use crate::model::types::ServiceKey;
use crate::transport::access::Access;
use crate::transport::readyz::Identity;
use candidates::{Backoff, Candidates, is_success};
use client::ApiError;
use connection::Reporter;
use session::{HealthViews, Rebalancer, Reflectors, SessionEnd, Shared};
use store::Store;

mod candidates;
mod client;
pub mod connection;
pub mod decode;
mod reflector;
pub mod resource;
pub mod review;
mod session;
mod store;

pub use crate::transport::http_client::PING_INTERVAL;
pub use connection::{Connection, ConnectionState};
pub use session::SPREAD_INTERVAL;

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Server, CA and credentials, as they are renewed.
    pub access: Receiver<Arc<Access>>,
    /// The Service whose virtual IP is kept.
    pub service: ServiceKey,
    /// How strictly addresses are judged.
    pub snapshot: SnapshotOptions,
    /// The apiservers to dial besides published endpoints.
    pub alternatives: Receiver<FallbackEndpoints>,
    /// Which apiservers are ready.
    pub views: Receiver<Option<HealthView>>,
    /// The identity of probes and self-tests: the credentials of each session are put into it.
    pub identity: Arc<Sender<Identity>>,
    /// Between two PINGs on a connection, usually [`PING_INTERVAL`].
    pub ping_interval: Duration,
    /// How long one apiserver is read, usually [`SPREAD_INTERVAL`].
    pub spread_interval: Duration,
}

/// Reads the API until the receiver of snapshots is dropped, or until the task is aborted. Publishes once both first
/// lists are complete, and after every change that gives a different snapshot, with the next generation.
pub async fn run(
    config: ApiConfig,
    snapshots: Sender<Option<PublishedSnapshot>>,
    connection: Sender<Connection>,
) {
    let ApiConfig { mut access, service, snapshot, mut alternatives, mut views, identity, .. } = config;
    let (ping_interval, rebalancer) = (config.ping_interval, Rebalancer::new(config.spread_interval));
    let shared = Shared {
        key: service,
        candidates: Arc::new(Mutex::new(Candidates::new(rand::random()))),
        store: Mutex::new(Store::new(snapshot)),
        reporter: Mutex::new(Reporter::new(connection)),
        snapshots,
        identity,
        ping_interval,
        alternatives_changed: Notify::new(),
    };
    shared.candidates().set_alternatives(alternatives.borrow_and_update().clone());
    tokio::select! {
        () = read(&mut access, &mut views, rebalancer, &shared) => {}
        () = follow_alternatives(alternatives, &shared) => {}
    }
}

/// Keeps the alternatives up to date.
async fn follow_alternatives(mut alternatives: Receiver<FallbackEndpoints>, shared: &Shared) {
    while alternatives.changed().await.is_ok() {
        shared.candidates().set_alternatives(alternatives.borrow_and_update().clone());
        shared.alternatives_changed.notify_waiters();
    }
    std::future::pending().await
}

/// One session after the other.
async fn read(
    access: &mut Receiver<Arc<Access>>,
    views: &mut HealthViews,
    mut rebalancer: Rebalancer,
    shared: &Shared,
) {
    let mut reflectors = Reflectors::new();
    let mut backoff = Backoff::default();
    loop {
        let current = Arc::clone(&access.borrow_and_update());
        shared.reporter().set_expiry(current.expiry());
        let ended = tokio::select! {
            ended = session::run(&current, &mut reflectors, shared, &mut backoff) => ended,
            () = credentials_renewed(access, &current, shared) => {
                // What has been read goes on where it is, over a connection that shows the new ones.
                shared.reporter().session_moved();
                continue;
            }
            () = session::apiserver_unready(views, shared) => {
                let mut candidates = shared.candidates();
                let address = candidates.address().map(tracing::field::display);
                tracing::warn!(
                    event = %"api_server_not_ready", address,
                    "API server that is read is not ready, switching to another one"
                );
                candidates.failed(true);
                shared.reporter().session_moved();
                continue;
            }
            () = rebalancer.rebalance(shared) => {
                // As with renewed credentials, nothing is missed: the watches resume.
                tracing::debug!(
                    event = %"api_server_rebalanced",
                    "Switching to another API server to spread the nodes"
                );
                shared.reporter().session_moved();
                continue;
            }
            () = shared.snapshots.closed() => return,
        };
        let delay = next_delay(shared, &ended, &mut backoff);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            // The server that is named now may be the one that answers.
            () = shared.alternatives_changed.notified() => {}
            () = credentials_renewed(access, &current, shared) => {}
            () = shared.snapshots.closed() => return,
        }
    }
}

/// Waits for credentials that need a new connection.
async fn credentials_renewed(access: &mut Receiver<Arc<Access>>, current: &Access, shared: &Shared) {
    while access.changed().await.is_ok() {
        let latest = Arc::clone(&access.borrow_and_update());
        shared.reporter().set_expiry(latest.expiry());
        if !latest.has_same_connection(current) {
            return;
        }
    }
    std::future::pending().await
}

/// Reports the end of a session. Returns how long to wait before the next.
fn next_delay(
    shared: &Shared,
    SessionEnd { error, partial }: &SessionEnd,
    backoff: &mut Backoff,
) -> Duration {
    let mut candidates = shared.candidates();
    let address = candidates.address();
    if let ApiError::ThroughVip = error {
        let address = address.map(tracing::field::display);
        tracing::warn!(
            event = %"api_reached_through_vip", address,
            "Read Kubernetes API through its virtual IP, dialing endpoints now"
        );
        candidates.restart();
        shared.reporter().session_moved();
        return Duration::ZERO;
    }
    if let ApiError::CertificateExpiring = error {
        tracing::debug!(
            event = %"client_certificate_expiring", %error,
            "Client certificate expires soon, requesting the next one"
        );
        shared.reporter().session_moved();
        return Duration::ZERO;
    }
    let synced = shared.reporter().session_failed(error, address).unwrap_or_default();
    let healthy = partial.as_ref().map_or(synced, |partial| partial.healthy);
    candidates.failed(is_success(healthy));
    match partial {
        Some(partial) => partial.remaining,
        None => backoff.next(healthy, &mut rand::rng()),
    }
}

#[cfg(test)]
mod tests;
