//! Follows one collection through one session: list, watch, resume, relist, as a reflector of client-go does.
//!
//! In: a client, and the [`ResumePoint`] that earlier sessions left behind. Out: changes and progress to a
//! [`ReflectorHandler`]; the error that ended the session. The resume point outlives the session, so that a reconnect
//! resumes where it stopped.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use rand::RngExt;
use tokio::time::timeout;

use super::client::{ApiError, Client};
use super::decode::{self, Change, LineBuffer, LineTooLong, MAX_OBJECT_BYTES, ObjectList, WatchEvent};
use super::resource::{RequestInfo, Resource, ResourceVersionMatch};
use super::store::{ResourceVersions, is_older};
use crate::model::types::ServiceKey;
use crate::transport::text::one_line;

/// A watch that ends sooner than this without a word, or after another such, was not worth starting again at once.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// How long after one list that answers a refused resourceVersion the next refusal is an error like any other: a
/// server that refuses what it just gave must not be asked in a loop.
const BETWEEN_REFUSALS: Duration = Duration::from_secs(60);

/// The key of all objects that the selectors should have left out; a Kubernetes name has no slash.
const OTHER_OBJECT: &str = "/";

/// Where the next request continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResumePoint {
    /// With a list.
    List(ResourceVersionMatch),
    /// With a watch of everything after this resourceVersion.
    Watch(String),
}

/// What happens while a collection is followed.
pub(super) trait ReflectorHandler {
    /// The view changed. An error ends the session.
    fn changed(&self, resource: Resource, change: Change, received: Instant) -> Result<(), ApiError>;
    /// The server accepted a watch: what is known is current from now on.
    fn watching(&self, resource: Resource);
    /// An event, a bookmark or a further list was read, or one that is stale.
    fn counted(&self, what: ReflectorCounter);
    /// A list, an event or a bookmark came, and this is how far it has been read.
    fn reached(&self, resource: Resource, version: &str);
}

/// What a [`ReflectorHandler`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReflectorCounter {
    Event,
    Bookmark,
    /// An event or a bookmark that is not newer than what was known.
    Stale,
    Relist,
}

/// One collection and how far it has been read.
#[derive(Debug)]
pub(super) struct Reflector {
    resource: Resource,
    resume_point: ResumePoint,
    /// Was listed, in whichever session.
    listed: bool,
    /// When a refused version was last answered with a list.
    refused_at: Option<Instant>,
    /// The last watch ended within [`SHORT_WATCH`].
    was_short: bool,
}

impl Reflector {
    pub(super) fn new(resource: Resource) -> Self {
        let resume_point = ResumePoint::List(ResourceVersionMatch::Any);
        Self { resource, resume_point, listed: false, refused_at: None, was_short: false }
    }

    /// Lists, if there is no version that a watch could continue from, and watches until something fails.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        handler: &impl ReflectorHandler,
    ) -> ApiError {
        loop {
            if let Err(failure) = self.step(client, key, handler).await {
                return failure;
            }
        }
    }

    /// One list, or one watch to its end. If the server does not have our version, the collection is relisted within
    /// the session.
    pub(super) async fn step(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        handler: &impl ReflectorHandler,
    ) -> Result<(), ApiError> {
        let result = match &self.resume_point.clone() {
            ResumePoint::List(from) => self.list(client, key, from, handler).await,
            ResumePoint::Watch(version) => self.watch(client, key, version, handler).await,
        };
        match result {
            Err(ApiError::Expired { .. } | ApiError::TooLargeResourceVersion { .. }) if self.may_relist() => {
                self.resume_point = ResumePoint::List(ResourceVersionMatch::MostRecent);
                Ok(())
            }
            Err(failure) => {
                self.set_resume_point(&failure);
                Err(failure)
            }
            Ok(()) => Ok(()),
        }
    }

    fn may_relist(&mut self) -> bool {
        let may = self.refused_at.is_none_or(|at| at.elapsed() >= BETWEEN_REFUSALS);
        if may {
            self.refused_at = Some(Instant::now());
        }
        may
    }

    async fn list(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        from: &ResourceVersionMatch,
        handler: &impl ReflectorHandler,
    ) -> Result<(), ApiError> {
        let (listed, received) = list(client, self.resource, key, from).await?;
        // One that was read through to etcd rules, whatever its version: etcd may have been restored from a backup.
        if let ResourceVersionMatch::NotOlderThan(wanted) = from
            && is_older(&listed.version, wanted)
        {
            let request =
                RequestInfo { verb: "list", resource: self.resource, namespace: key.namespace.clone() };
            let message = format!("requested {wanted} or newer, received {}", listed.version);
            return Err(ApiError::TooLargeResourceVersion { request, message: one_line(&message) });
        }
        if std::mem::replace(&mut self.listed, true) {
            handler.counted(ReflectorCounter::Relist);
        }
        handler.reached(self.resource, &listed.version);
        self.resume_point = ResumePoint::Watch(listed.version);
        handler.changed(self.resource, listed.change, received)
    }

    async fn watch(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        version: &str,
        handler: &impl ReflectorHandler,
    ) -> Result<(), ApiError> {
        let request =
            RequestInfo { verb: "watch", resource: self.resource, namespace: key.namespace.clone() };
        let seconds = watch_seconds(&mut rand::rng());
        let target = self.resource.watch_target(key, version, seconds);
        let response = client.get(&request, &target).await?;
        handler.watching(self.resource);
        let started = Instant::now();
        let mut heard = false;
        let mut versions = ResourceVersions::after(version);
        read_events(
            response.into_body(),
            &request,
            key,
            watch_idle_timeout(seconds),
            |error: hyper::Error| client.connection_error(&request, &error),
            |event, received| {
                heard = true;
                self.apply(event, &mut versions, &request, received, handler)
            },
        )
        .await?;
        let is_short = started.elapsed() < SHORT_WATCH;
        let was_short = std::mem::replace(&mut self.was_short, is_short);
        if is_short && (was_short || !heard) {
            let problem = "ended the watch as soon as it had begun".to_owned();
            return Err(ApiError::Protocol { request, problem });
        }
        Ok(())
    }

    /// What is not newer than what was known, a repetition or what a server that lags sends again, changes nothing. An
    /// etcd that was restored from a backup must not go on with versions that it has given before: for every watch of
    /// every client they would be old.
    fn apply(
        &mut self,
        event: WatchEvent,
        versions: &mut ResourceVersions,
        request: &RequestInfo,
        received: Instant,
        handler: &impl ReflectorHandler,
    ) -> Result<(), ApiError> {
        let (is_news, what, change) = match event {
            WatchEvent::Changed(Some(change), version) => {
                (versions.event(change.object(), &version), ReflectorCounter::Event, Some(change))
            }
            WatchEvent::Changed(None, version) => {
                (versions.event(OTHER_OBJECT, &version), ReflectorCounter::Event, None)
            }
            WatchEvent::Bookmark(version) => (versions.bookmark(&version), ReflectorCounter::Bookmark, None),
            WatchEvent::Error { code: 410, .. } => {
                return Err(ApiError::Expired { request: request.clone() });
            }
            WatchEvent::Error { code, message } => {
                let problem = format!("ended the watch with error {code}: {}", one_line(&message));
                return Err(ApiError::Protocol { request: request.clone(), problem });
            }
        };
        handler.counted(if is_news { what } else { ReflectorCounter::Stale });
        handler.reached(self.resource, versions.newest());
        self.resume_point = ResumePoint::Watch(versions.newest().to_owned());
        match change.filter(|_| is_news) {
            Some(change) => handler.changed(self.resource, change, received),
            None => Ok(()),
        }
    }

    /// Where the next session begins after `failure`. What could not be understood, a resumed watch would send again;
    /// so that is listed anew, and so is what a server lists and does not let watch. One that is asked for too much
    /// (429) is not asked for more.
    fn set_resume_point(&mut self, failure: &ApiError) {
        self.resume_point = match (failure, &self.resume_point) {
            (ApiError::Expired { .. } | ApiError::TooLargeResourceVersion { .. }, _) => {
                ResumePoint::List(ResourceVersionMatch::MostRecent)
            }
            (ApiError::Status { code: 429, .. }, resume_point) => resume_point.clone(),
            (failure, ResumePoint::Watch(version)) if failure.is_response() => {
                ResumePoint::List(ResourceVersionMatch::NotOlderThan(version.clone()))
            }
            (_, resume_point) => resume_point.clone(),
        };
    }
}

/// How long the body of a list may take once its head is there: some kilobytes, so this is a hung server.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Lists `resource` of the Service `key`.
pub(super) async fn list(
    client: &Client,
    resource: Resource,
    key: &ServiceKey,
    from: &ResourceVersionMatch,
) -> Result<(ObjectList, Instant), ApiError> {
    let request = RequestInfo { verb: "list", resource, namespace: key.namespace.clone() };
    let response = client.get(&request, &resource.list_target(key, from)).await?;
    let broken = |error: hyper::Error| client.connection_error(&request, &error);
    let body = match timeout(BODY_TIMEOUT, read_body(response.into_body(), &request, broken)).await {
        Ok(body) => body?,
        Err(_) => return Err(ApiError::Timeout { request, limit: BODY_TIMEOUT }),
    };
    let received = Instant::now();
    let listed = decode::list(resource, key, &body).map_err(|error| ApiError::decode(&request, &error))?;
    Ok((listed, received))
}

/// Reads a body up to the bound.
async fn read_body<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    request: &RequestInfo,
    broken: impl Fn(B::Error) -> ApiError,
) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(&broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_OBJECT_BYTES {
            return Err(ApiError::too_long(request, LineTooLong { limit: MAX_OBJECT_BYTES }));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// How long the server is asked to keep a watch open, in seconds. Long enough to cost nothing, short enough that a
/// watch which went quiet for a reason unknown heals by itself.
const WATCH_SECONDS: f64 = 300.0;

/// How long after that no event may arrive before the watch is given up.
const IDLE_GRACE: Duration = Duration::from_secs(30);

/// `timeoutSeconds` of the next watch: 300 with 10 % to either side, so that nodes do not ask together.
fn watch_seconds(rng: &mut impl RngExt) -> u64 {
    (WATCH_SECONDS * rng.random_range(0.9..=1.1)) as u64
}

/// The longest time without an event in a watch with `timeoutSeconds`.
fn watch_idle_timeout(seconds: u64) -> Duration {
    Duration::from_secs(seconds) + IDLE_GRACE
}

/// Hands every event of `body` to `each`, with the moment at which its last byte arrived. Returns when the server ends
/// the watch in good order.
async fn read_events<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    request: &RequestInfo,
    key: &ServiceKey,
    silence: Duration,
    broken: impl Fn(B::Error) -> ApiError,
    mut each: impl FnMut(WatchEvent, Instant) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut lines = LineBuffer::new(MAX_OBJECT_BYTES);
    loop {
        let frame = match timeout(silence, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(&broken)?,
            Ok(None) => break,
            Err(_) => return Err(ApiError::Timeout { request: request.clone(), limit: silence }),
        };
        let Some(chunk) = frame.data_ref() else { continue };
        let received = Instant::now();
        let taken = lines.push(chunk, |line| {
            let event = decode::event(request.resource, key, line)
                .map_err(|error| ReadError::Api(ApiError::decode(request, &error)))?;
            each(event, received).map_err(ReadError::Api)
        });
        match taken {
            Ok(()) => {}
            Err(ReadError::Api(error)) => return Err(error),
            Err(ReadError::LineTooLong(error)) => return Err(ApiError::too_long(request, error)),
        }
    }
    match lines.unfinished() {
        0 => Ok(()),
        bytes => Err(ApiError::Protocol {
            request: request.clone(),
            problem: format!("ended the watch in the middle of an event, after {bytes} bytes of it"),
        }),
    }
}

/// What ends the reading of lines.
enum ReadError {
    Api(ApiError),
    LineTooLong(LineTooLong),
}

impl From<LineTooLong> for ReadError {
    fn from(error: LineTooLong) -> Self {
        Self::LineTooLong(error)
    }
}

#[cfg(test)]
mod tests;
