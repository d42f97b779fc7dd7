//! One session: one client, both collections followed over it, each for itself, until the connection fails or it is
//! time to ask another server for what this one refuses.
//!
//! In: the collections' positions from the session before. Out: snapshots to whoever listens; the error that ended it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::PublishedSnapshot;
use super::backoff::Backoff;
use super::candidates::Candidates;
use super::client::Client;
use super::collection::{Collection, Counted, Sink};
use super::connection::Reporter;
use super::decode::Change;
use super::error::ApiError;
use super::introduce;
use super::resource::Resource;
use super::store::Store;
use crate::model::types::ServiceKey;
use crate::transport::access::Access;
use crate::transport::readyz::Identity;

/// The two collections and how far each has been read.
#[derive(Debug)]
pub(super) struct Collections {
    service: Collection,
    slices: Collection,
}

impl Collections {
    pub(super) fn new() -> Self {
        Self { service: Collection::new(Resource::Service), slices: Collection::new(Resource::Slices) }
    }
}

/// What sessions share: the view, where it is published, and which servers can be dialled.
pub(super) struct Hub {
    pub(super) key: ServiceKey,
    pub(super) candidates: Arc<Mutex<Candidates>>,
    pub(super) store: Mutex<Store>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) snapshots: watch::Sender<Option<PublishedSnapshot>>,
    /// As whom probes and self-tests ask.
    pub(super) identity: Arc<watch::Sender<Identity>>,
    /// Between two PINGs.
    pub(super) ping_interval: Duration,
    /// There are other alternatives to published endpoints now.
    pub(super) offered: Notify,
}

impl Hub {
    pub(super) fn candidates(&self) -> MutexGuard<'_, Candidates> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reporter(&self) -> MutexGuard<'_, Reporter> {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub as one session sees it.
struct Session<'a> {
    hub: &'a Hub,
    /// The Service was read: the connection stands.
    opened: Notify,
}

impl Session<'_> {
    fn heard(&self, resource: Resource) {
        if resource == Resource::Service {
            self.opened.notify_one();
        }
    }
}

impl Sink for Session<'_> {
    fn changed(&self, resource: Resource, change: Change, received: Instant) -> Result<(), ApiError> {
        self.heard(resource);
        let snapshot = self.hub.store.lock().unwrap_or_else(PoisonError::into_inner).apply(change);
        if let Some(snapshot) = snapshot {
            self.hub.candidates().publish(&snapshot);
            self.hub.snapshots.send_replace(Some(PublishedSnapshot { snapshot, received }));
        }
        if self.hub.candidates().is_through_vip() { Err(ApiError::ThroughVip) } else { Ok(()) }
    }

    fn watching(&self, resource: Resource) {
        self.heard(resource);
        let address = self.hub.candidates().address();
        self.hub.reporter().watching(resource, address);
    }

    fn counted(&self, what: Counted) {
        self.hub.reporter().counted(what);
    }

    fn reached(&self, resource: Resource, version: &str) {
        self.hub.reporter().reached(resource, version);
    }
}

/// Why a session ended.
pub(super) struct Ended {
    pub(super) error: ApiError,
    /// If one collection was refused before.
    pub(super) rest: Option<Rest>,
}

/// While one collection is refused, the other is followed for as long as would be waited without it.
pub(super) struct Rest {
    /// How long both had been current before.
    pub(super) healthy: Duration,
    /// What is left to wait.
    pub(super) left: Duration,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self { error, rest: None }
    }
}

/// Runs one session until it fails.
pub(super) async fn run(
    access: &Access,
    collections: &mut Collections,
    hub: &Hub,
    backoff: &mut Backoff,
) -> Ended {
    match open(access, collections, hub, backoff).await {
        Ok(ended) => ended,
        Err(error) => error.into(),
    }
}

async fn open(
    access: &Access,
    collections: &mut Collections,
    hub: &Hub,
    backoff: &mut Backoff,
) -> Result<Ended, ApiError> {
    hub.reporter().waits_for(access.plugin().as_deref());
    let client = Client::open(access, &hub.candidates, hub.ping_interval).await;
    hub.reporter().waits_for(None);
    let client = client?;
    let introduced = introduce::keep(&client, &hub.identity);
    // Nobody says so when a certificate that is shown already ends: each request fails from then on.
    let end = client.changes_after().map(|after| Instant::now() + after);
    let session = Session { hub, opened: Notify::new() };
    let Collections { service, slices } = collections;
    let service = async {
        let failed = service.follow(&client, &hub.key, &session).await;
        session.opened.notify_one();
        failed
    };
    let slices = async {
        // The second request waits for the first answer: by then it is known whether the connection is HTTP/2, and they
        // share it instead of racing to dial two.
        session.opened.notified().await;
        slices.follow(&client, &hub.key, &session).await
    };
    let read = each(service, slices, hub, backoff);
    let ends = async {
        match end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = read => Ok(ended),
        () = ends => Err(ApiError::EndsSoon),
        never = introduced => match never {},
    }
}

/// Reads both collections. When one is refused, a server or the whole cluster may be why: the other is followed while
/// time passes until the next server is asked for both.
async fn each(
    service: impl Future<Output = ApiError> + Send,
    slices: impl Future<Output = ApiError> + Send,
    hub: &Hub,
    backoff: &mut Backoff,
) -> Ended {
    tokio::pin!(service, slices);
    let (error, other): (_, Pin<&mut (dyn Future<Output = ApiError> + Send)>) = tokio::select! {
        error = &mut service => (error, slices as _),
        error = &mut slices => (error, service as _),
    };
    let Some(resource) = error.refused() else { return error.into() };
    let address = hub.candidates().address();
    let healthy = hub.reporter().refused(resource, &error, address).unwrap_or_default();
    let until = tokio::time::Instant::now() + backoff.next(healthy, &mut rand::rng());
    let error = match tokio::time::timeout_at(until, other).await {
        Err(_) => error,
        // Where both are refused, the first names the session's end.
        Ok(second) => match second.refused() {
            Some(resource) => {
                hub.reporter().refused(resource, &second, address);
                error
            }
            None => second,
        },
    };
    Ended {
        error,
        rest: Some(Rest { healthy, left: until.saturating_duration_since(tokio::time::Instant::now()) }),
    }
}
