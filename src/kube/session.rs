//! One session: one client, both collections followed over it, each for itself, until the connection fails or it is
//! time to ask another server for what this one refuses; and the two reasons to leave an apiserver that serves: it is
//! not ready, or the nodes are to be spread again.
//!
//! In: the resume points of the session before, and health views. Out: snapshots; the credentials
//! that probes and self-tests show; the error that ended the session. An apiserver that has lost its etcd goes on
//! serving watches and says nothing new in them, for minutes, and one whose process hangs says nothing: so health
//! views decide, too.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::watch::{Receiver, Sender};
use tokio::sync::{Notify, watch};

use super::candidates::{Backoff, Candidates};
use super::client::{ApiError, Client};
use super::connection::Reporter;
use super::decode::Change;
use super::reflector::{Reflector, ReflectorCounter, ReflectorHandler};
use super::resource::Resource;
use super::store::Store;
use crate::model::health::{HealthState, HealthView};
use crate::model::snapshot::PublishedSnapshot;
use crate::model::types::ServiceKey;
use crate::transport::access::Access;
use crate::transport::http_client::HttpClient;
use crate::transport::readyz::Identity;

/// How long one apiserver is read, usually. Upgrades are weeks apart, so hours are soon enough; a move costs the
/// apiserver a TLS handshake and two watches that resume, 0.35 times a second with 5,000 nodes.
pub const SPREAD_INTERVAL: Duration = Duration::from_secs(4 * 60 * 60);

/// How long the apiserver that is read may be unready or not answer. What it knows does not change so fast that
/// another one is needed sooner.
const UNREADY_GRACE: Duration = Duration::from_secs(10);

/// How often the credentials of the session are compared: a renewed token is used after this at the latest. No file
/// is read and no plugin is run for it, unless its token has expired.
const CREDENTIALS_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The two collections and how far each has been read.
#[derive(Debug)]
pub(super) struct Reflectors {
    service: Reflector,
    slices: Reflector,
}

impl Reflectors {
    pub(super) fn new() -> Self {
        Self { service: Reflector::new(Resource::Service), slices: Reflector::new(Resource::EndpointSlices) }
    }
}

/// What sessions share: the view, where it is published, and which servers can be dialled.
pub(super) struct Shared {
    pub(super) key: ServiceKey,
    pub(super) candidates: Arc<Mutex<Candidates>>,
    pub(super) store: Mutex<Store>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) snapshots: watch::Sender<Option<PublishedSnapshot>>,
    /// The identity of probes and self-tests.
    pub(super) identity: Arc<watch::Sender<Identity>>,
    /// Between two PINGs.
    pub(super) ping_interval: Duration,
    /// There are other alternatives to published endpoints now.
    pub(super) alternatives_changed: Notify,
}

impl Shared {
    pub(super) fn candidates(&self) -> MutexGuard<'_, Candidates> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reporter(&self) -> MutexGuard<'_, Reporter> {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one session reports to.
struct Session<'a> {
    shared: &'a Shared,
    /// The Service was read: the connection is established.
    opened: Notify,
}

impl Session<'_> {
    fn responded(&self, resource: Resource) {
        if resource == Resource::Service {
            self.opened.notify_one();
        }
    }
}

impl ReflectorHandler for Session<'_> {
    fn changed(&self, resource: Resource, change: Change, received: Instant) -> Result<(), ApiError> {
        self.responded(resource);
        let snapshot = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner).apply(change);
        if let Some(snapshot) = snapshot {
            self.shared.candidates().set_endpoints(&snapshot);
            self.shared.snapshots.send_replace(Some(PublishedSnapshot { snapshot, received }));
        }
        if self.shared.candidates().is_through_vip() { Err(ApiError::ThroughVip) } else { Ok(()) }
    }

    fn watching(&self, resource: Resource) {
        self.responded(resource);
        let address = self.shared.candidates().address();
        self.shared.reporter().watching(resource, address);
    }

    fn counted(&self, what: ReflectorCounter) {
        self.shared.reporter().count(what);
    }

    fn reached(&self, resource: Resource, version: &str) {
        self.shared.reporter().reached(resource, version);
    }
}

/// Why a session ended.
pub(super) struct SessionEnd {
    pub(super) error: ApiError,
    /// If one collection was refused before.
    pub(super) partial: Option<PartialSession>,
}

/// While one collection is refused, the other is followed for as long as would be waited without it.
pub(super) struct PartialSession {
    /// How long both had been current before.
    pub(super) healthy: Duration,
    /// What is left to wait.
    pub(super) remaining: Duration,
}

impl From<ApiError> for SessionEnd {
    fn from(error: ApiError) -> Self {
        Self { error, partial: None }
    }
}

/// Runs one session until it fails.
pub(super) async fn run(
    access: &Access,
    collections: &mut Reflectors,
    shared: &Shared,
    backoff: &mut Backoff,
) -> SessionEnd {
    match open(access, collections, shared, backoff).await {
        Ok(ended) => ended,
        Err(error) => error.into(),
    }
}

async fn open(
    access: &Access,
    collections: &mut Reflectors,
    shared: &Shared,
    backoff: &mut Backoff,
) -> Result<SessionEnd, ApiError> {
    shared.reporter().set_running_plugin(access.plugin().as_deref());
    let client = Client::open(access, &shared.candidates, shared.ping_interval).await;
    shared.reporter().set_running_plugin(None);
    let client = client?;
    let published = publish_credentials(client.http(), &shared.identity);
    // No event marks the expiry of a client certificate in use: each request fails from then on.
    let end = client.http().renew_after().map(|after| Instant::now() + after);
    let session = Session { shared, opened: Notify::new() };
    let Reflectors { service, slices } = collections;
    let service = async {
        let failed = service.follow(&client, &shared.key, &session).await;
        session.opened.notify_one();
        failed
    };
    let slices = async {
        // The second request waits for the first answer: by then it is known whether the connection is HTTP/2, and they
        // share it instead of racing to dial two.
        session.opened.notified().await;
        slices.follow(&client, &shared.key, &session).await
    };
    let read = follow_both(service, slices, shared, backoff);
    let ends = async {
        match end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = read => Ok(ended),
        () = ends => Err(ApiError::CertificateExpiring),
        never = published => match never {},
    }
}

/// Reads both collections. When one is refused, a server or the whole cluster may be why: the other is followed while
/// time passes until the next server is asked for both.
async fn follow_both(
    service: impl Future<Output = ApiError> + Send,
    slices: impl Future<Output = ApiError> + Send,
    shared: &Shared,
    backoff: &mut Backoff,
) -> SessionEnd {
    tokio::pin!(service, slices);
    let (error, other): (_, Pin<&mut (dyn Future<Output = ApiError> + Send)>) = tokio::select! {
        error = &mut service => (error, slices as _),
        error = &mut slices => (error, service as _),
    };
    let Some(resource) = error.refused_resource() else { return error.into() };
    let address = shared.candidates().address();
    let healthy = shared.reporter().collection_refused(resource, &error, address).unwrap_or_default();
    let until = tokio::time::Instant::now() + backoff.next(healthy, &mut rand::rng());
    let error = match tokio::time::timeout_at(until, other).await {
        Err(_) => error,
        // Where both are refused, the first names the session's end.
        Ok(second) => match second.refused_resource() {
            Some(resource) => {
                shared.reporter().collection_refused(resource, &second, address);
                error
            }
            None => second,
        },
    };
    SessionEnd {
        error,
        partial: Some(PartialSession {
            healthy,
            remaining: until.saturating_duration_since(tokio::time::Instant::now()),
        }),
    }
}

/// Gives probes and self-tests the credentials that the session shows, now and whenever they are renewed. What was
/// there before stays where the new ones cannot be read.
async fn publish_credentials(client: &HttpClient<Candidates>, identity: &Sender<Identity>) -> Infallible {
    let mut failures = 0_u32;
    loop {
        match client.credentials().await {
            Ok(credentials) => {
                failures = 0;
                identity.send_if_modified(|identity| {
                    let changed = identity.credentials != credentials;
                    identity.credentials = credentials;
                    changed
                });
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                // Once, another request may have been running the credential plugin.
                if failures == 2 || !client.renews_credentials() {
                    tracing::warn!(
                        event = %"probe_credentials_unavailable", error,
                        "No credentials for probes, using the last ones"
                    );
                }
            }
        }
        if !client.renews_credentials() {
            return std::future::pending().await;
        }
        tokio::time::sleep(CREDENTIALS_POLL_INTERVAL).await;
    }
}

/// Health views, as they come.
pub(super) type HealthViews = Receiver<Option<HealthView>>;

/// Waits until the apiserver that the session is with has been unready or Down for a while, and another one was ready.
pub(super) async fn apiserver_unready(views: &mut HealthViews, shared: &Shared) {
    take_view(views, shared);
    loop {
        while !shared.candidates().is_with_unready() {
            next_view(views, shared).await;
        }
        let recovered = async {
            while shared.candidates().is_with_unready() {
                next_view(views, shared).await;
            }
        };
        if tokio::time::timeout(UNREADY_GRACE, recovered).await.is_err() {
            return;
        }
    }
}

/// Waits for the next view.
async fn next_view(views: &mut HealthViews, shared: &Shared) {
    if views.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    take_view(views, shared);
}

fn take_view(views: &mut HealthViews, shared: &Shared) {
    let unready = views.borrow_and_update().as_ref().map(unready);
    shared.candidates().set_unready(unready.unwrap_or_default());
}

/// The apiservers that are not ready, or do not answer, where another one is ready.
fn unready(view: &HealthView) -> BTreeSet<SocketAddr> {
    let all = view.snapshot.apiservers();
    let any = all.iter().any(|backend| view.state(*backend) == HealthState::Healthy);
    let is_unready = |backend: &SocketAddr| {
        matches!(view.state(*backend), HealthState::Draining | HealthState::Suspect | HealthState::Failed)
    };
    all.into_iter().filter(|backend| any && is_unready(backend)).collect()
}

/// When the node reads another apiserver, though nothing is wrong with the one that it reads.
///
/// An apiserver that restarts moves its clients to the others, and none back: after a rolling upgrade, one is
/// read by no node. So each node chooses again now and then, at moments of its own.
pub(super) struct Rebalancer {
    interval: Duration,
    due: tokio::time::Instant,
}

impl Rebalancer {
    pub(super) fn new(interval: Duration) -> Self {
        let mut rebalancer = Self { interval, due: tokio::time::Instant::now() };
        rebalancer.schedule(&mut rand::rng());
        rebalancer
    }

    /// From half the interval to one and a half: nodes that started together, or lost an apiserver together, do not
    /// move together.
    fn schedule(&mut self, rng: &mut impl RngExt) {
        self.due = tokio::time::Instant::now() + self.interval.mul_f64(rng.random_range(0.5..=1.5));
    }

    /// Waits until another apiserver was chosen. Cancel safe.
    pub(super) async fn rebalance(&mut self, shared: &Shared) {
        loop {
            tokio::time::sleep_until(self.due).await;
            self.schedule(&mut rand::rng());
            if shared.candidates().reselect() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
