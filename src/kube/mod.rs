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
use crate::model::snapshot::SnapshotOptions;
use crate::model::sources::FallbackEndpoints;
use crate::model::types::ServiceKey;
use crate::transport::readyz::Identity;

mod backoff;
mod candidates;
mod client;
mod collection;
pub mod connection;
pub mod decode;
mod dialer;
mod error;
pub mod examine;
pub mod frames;
mod introduce;
mod list;
mod readiness;
mod renewal;
pub mod resource;
pub mod review;
mod session;
mod spread;
mod store;
mod versions;
mod watch;

pub use crate::transport::access::{
    Access, AccessError, Credentials, Expiry, Lifetime, TLS_NAME, Warning, load,
};
pub use client::PING_INTERVAL;
pub use connection::{Connection, State};
pub use renewal::follow;
pub use spread::SPREAD_INTERVAL;

pub use crate::model::snapshot::PublishedSnapshot;

pub use crate::transport::words::plain;
use backoff::Backoff;
use candidates::Candidates;
use connection::Reporter;
use error::ApiError;
use readiness::Views;
use session::{Collections, Ended, Hub};
use spread::Choices;
use store::Store;

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Server, CA and credentials, as they are renewed.
    pub access: Receiver<Arc<Access>>,
    /// The Service whose virtual IP is kept.
    pub service: ServiceKey,
    /// How strictly addresses are judged.
    pub snapshot: SnapshotOptions,
    /// Whom to dial besides published endpoints.
    pub alternatives: Receiver<FallbackEndpoints>,
    /// Which apiservers are ready.
    pub views: Receiver<Option<HealthView>>,
    /// As whom probes and self-tests ask: the credentials of each session are put into it.
    pub identity: Arc<Sender<Identity>>,
    /// Between two PINGs on a connection, usually [`PING_INTERVAL`].
    pub ping_interval: Duration,
    /// How long one apiserver is read, usually [`SPREAD_INTERVAL`].
    pub spread_interval: Duration,
}

/// Reads the API until nobody listens for snapshots any more, or until the task is aborted. Publishes once both first
/// lists are complete, and after every change that gives a different snapshot, with the next generation.
pub async fn run(
    config: ApiConfig,
    snapshots: Sender<Option<PublishedSnapshot>>,
    connection: Sender<Connection>,
) {
    let ApiConfig { mut access, service, snapshot, mut alternatives, mut views, identity, .. } = config;
    let (ping_interval, choices) = (config.ping_interval, Choices::new(config.spread_interval));
    let hub = Hub {
        key: service,
        candidates: Arc::new(Mutex::new(Candidates::new(rand::random()))),
        store: Mutex::new(Store::new(snapshot)),
        reporter: Mutex::new(Reporter::new(connection)),
        snapshots,
        identity,
        ping_interval,
        offered: Notify::new(),
    };
    hub.candidates().offer(alternatives.borrow_and_update().clone());
    tokio::select! {
        () = read(&mut access, &mut views, choices, &hub) => {}
        () = offer(alternatives, &hub) => {}
    }
}

/// Keeps the alternatives up to date.
async fn offer(mut alternatives: Receiver<FallbackEndpoints>, hub: &Hub) {
    while alternatives.changed().await.is_ok() {
        hub.candidates().offer(alternatives.borrow_and_update().clone());
        hub.offered.notify_waiters();
    }
    std::future::pending().await
}

/// One session after the other.
async fn read(access: &mut Receiver<Arc<Access>>, views: &mut Views, mut choices: Choices, hub: &Hub) {
    let mut collections = Collections::new();
    let mut backoff = Backoff::default();
    loop {
        let current = Arc::clone(&access.borrow_and_update());
        hub.reporter().credentials(current.expiry());
        let ended = tokio::select! {
            ended = session::run(&current, &mut collections, hub, &mut backoff) => ended,
            () = renewed(access, &current, hub) => {
                // What has been read goes on where it is, over a connection that shows the new ones.
                hub.reporter().moved();
                continue;
            }
            () = readiness::lost(views, hub) => {
                let mut candidates = hub.candidates();
                let address = candidates.address().map(tracing::field::display);
                tracing::warn!(address, "the apiserver that was read is not ready or does not answer; one that is ready is read now");
                candidates.failed(true);
                hub.reporter().moved();
                continue;
            }
            () = choices.elsewhere(hub) => {
                // As with renewed credentials, nothing is missed: the watches resume.
                tracing::debug!("another apiserver is read from now on, to spread the nodes");
                hub.reporter().moved();
                continue;
            }
            () = hub.snapshots.closed() => return,
        };
        let delay = settle(hub, &ended, &mut backoff);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            // The server that is named now may be the one that answers.
            () = hub.offered.notified() => {}
            () = renewed(access, &current, hub) => {}
            () = hub.snapshots.closed() => return,
        }
    }
}

/// Waits for credentials that need a new connection.
async fn renewed(access: &mut Receiver<Arc<Access>>, current: &Access, hub: &Hub) {
    while access.changed().await.is_ok() {
        let latest = Arc::clone(&access.borrow_and_update());
        hub.reporter().credentials(latest.expiry());
        if !latest.connects_like(current) {
            return;
        }
    }
    std::future::pending().await
}

/// Draws the conclusions from the end of a session. Returns how long to wait before the next.
fn settle(hub: &Hub, Ended { error, rest }: &Ended, backoff: &mut Backoff) -> Duration {
    let mut candidates = hub.candidates();
    let address = candidates.address();
    if let ApiError::ThroughVip = error {
        let address = address.map(tracing::field::display);
        tracing::warn!(
            address,
            "the Kubernetes API was reached through its virtual IP; an endpoint is dialled from now on"
        );
        candidates.restart();
        hub.reporter().moved();
        return Duration::ZERO;
    }
    if let ApiError::EndsSoon = error {
        tracing::debug!("{error}");
        hub.reporter().moved();
        return Duration::ZERO;
    }
    let synced = hub.reporter().ended(error, address).unwrap_or_default();
    let healthy = rest.as_ref().map_or(synced, |rest| rest.healthy);
    candidates.failed(backoff::is_success(healthy));
    match rest {
        Some(rest) => rest.left,
        None => backoff.next(healthy, &mut rand::rng()),
    }
}

#[cfg(test)]
mod tests;
