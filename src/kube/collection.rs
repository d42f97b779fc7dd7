//! Follows one collection through one session: list, watch, resume, relist.
//!
//! In: a client, and the [`Position`] that earlier sessions left behind. Out: changes and progress to a [`Sink`]; the
//! error that ended the session. The position outlives the session, so that a reconnect resumes where it stopped.

use std::time::{Duration, Instant};

use super::client::Client;
use super::decode::{Change, Event};
use super::error::ApiError;
use super::list::list;
use super::resource::{Asked, ListFrom, Resource};
use super::versions::{Versions, is_older};
use super::watch;
use crate::model::types::ServiceKey;
use crate::transport::words::one_line;

/// A watch that ends sooner than this without a word, or after another such, was not worth starting again at once.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// How long after one list that answers a refused resourceVersion the next refusal is an error like any other: a
/// server that refuses what it just gave must not be asked in a loop.
const BETWEEN_REFUSALS: Duration = Duration::from_secs(60);

/// Stands for every object that is none of ours; a Kubernetes name has no slash.
const STRANGER: &str = "/";

/// Where the next request continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// With a list.
    List(ListFrom),
    /// With a watch of everything after this resourceVersion.
    Watch(String),
}

/// What happens while a collection is followed.
pub(super) trait Sink {
    /// The view changed. An error ends the session.
    fn changed(&self, resource: Resource, change: Change, received: Instant) -> Result<(), ApiError>;
    /// The server accepted a watch: what is known is current from now on.
    fn watching(&self, resource: Resource);
    /// An event, a bookmark or a further list was read, or something that is no news.
    fn counted(&self, what: Counted);
    /// A list, an event or a bookmark came, and this is how far it has been read.
    fn reached(&self, resource: Resource, version: &str);
}

/// What a [`Sink`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Event,
    Bookmark,
    /// An event or a bookmark that is not newer than what was known.
    Stale,
    Relist,
}

/// One collection and how far it has been read.
#[derive(Debug)]
pub(super) struct Collection {
    resource: Resource,
    position: Position,
    /// Was listed, in whichever session.
    listed: bool,
    /// When a refused version was last answered with a list.
    refused_at: Option<Instant>,
    /// The last watch ended within [`SHORT_WATCH`].
    was_short: bool,
}

impl Collection {
    pub(super) fn new(resource: Resource) -> Self {
        let position = Position::List(ListFrom::Cache);
        Self { resource, position, listed: false, refused_at: None, was_short: false }
    }

    /// Lists, if there is no version that a watch could continue from, and watches until something fails.
    pub(super) async fn follow(&mut self, client: &Client, key: &ServiceKey, sink: &impl Sink) -> ApiError {
        loop {
            if let Err(failure) = self.step(client, key, sink).await {
                return failure;
            }
        }
    }

    /// One list, or one watch to its end. A server that does not have our version is listed anew within the session.
    pub(super) async fn step(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        sink: &impl Sink,
    ) -> Result<(), ApiError> {
        let result = match &self.position.clone() {
            Position::List(from) => self.list(client, key, from, sink).await,
            Position::Watch(version) => self.watch(client, key, version, sink).await,
        };
        match result {
            Err(ApiError::Expired { .. } | ApiError::FromTheFuture { .. }) if self.may_list_anew() => {
                self.position = Position::List(ListFrom::Newest);
                Ok(())
            }
            Err(failure) => {
                self.recover(&failure);
                Err(failure)
            }
            Ok(()) => Ok(()),
        }
    }

    fn may_list_anew(&mut self) -> bool {
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
        from: &ListFrom,
        sink: &impl Sink,
    ) -> Result<(), ApiError> {
        let (listed, received) = list(client, self.resource, key, from).await?;
        // One that was read through to etcd rules, whatever its version: etcd may have been restored from a backup.
        if let ListFrom::AtLeast(wanted) = from
            && is_older(&listed.version, wanted)
        {
            let asked = Asked { verb: "list", resource: self.resource, namespace: key.namespace.clone() };
            let message = format!("asked for {wanted} or newer, it listed {}", listed.version);
            return Err(ApiError::FromTheFuture { asked, message: one_line(&message) });
        }
        if std::mem::replace(&mut self.listed, true) {
            sink.counted(Counted::Relist);
        }
        sink.reached(self.resource, &listed.version);
        self.position = Position::Watch(listed.version);
        sink.changed(self.resource, listed.change, received)
    }

    async fn watch(
        &mut self,
        client: &Client,
        key: &ServiceKey,
        version: &str,
        sink: &impl Sink,
    ) -> Result<(), ApiError> {
        let asked = Asked { verb: "watch", resource: self.resource, namespace: key.namespace.clone() };
        let seconds = watch::seconds(&mut rand::rng());
        let target = self.resource.watch_target(key, version, seconds);
        let response = client.get(&asked, &target).await?;
        sink.watching(self.resource);
        let started = Instant::now();
        let mut heard = false;
        let mut versions = Versions::after(version);
        watch::read(
            response.into_body(),
            &asked,
            key,
            watch::silence(seconds),
            |error: hyper::Error| client.broken(&asked, &error),
            |event, received| {
                heard = true;
                self.take(event, &mut versions, &asked, received, sink)
            },
        )
        .await?;
        let is_short = started.elapsed() < SHORT_WATCH;
        let was_short = std::mem::replace(&mut self.was_short, is_short);
        if is_short && (was_short || !heard) {
            let problem = "ended the watch as soon as it had begun".to_owned();
            return Err(ApiError::Protocol { asked, problem });
        }
        Ok(())
    }

    /// What is not newer than what was known, a repetition or what a server that lags sends again, changes nothing. An
    /// etcd that was restored from a backup must not go on with versions that it has given before: for every watch of
    /// every client they would be old.
    fn take(
        &mut self,
        event: Event,
        versions: &mut Versions,
        asked: &Asked,
        received: Instant,
        sink: &impl Sink,
    ) -> Result<(), ApiError> {
        let (is_news, what, change) = match event {
            Event::Changed(Some(change), version) => {
                (versions.event(change.object(), &version), Counted::Event, Some(change))
            }
            Event::Changed(None, version) => (versions.event(STRANGER, &version), Counted::Event, None),
            Event::Bookmark(version) => (versions.bookmark(&version), Counted::Bookmark, None),
            Event::Failed { code: 410, .. } => return Err(ApiError::Expired { asked: asked.clone() }),
            Event::Failed { code, message } => {
                let problem = format!("ended the watch with error {code}: {}", one_line(&message));
                return Err(ApiError::Protocol { asked: asked.clone(), problem });
            }
        };
        sink.counted(if is_news { what } else { Counted::Stale });
        sink.reached(self.resource, versions.newest());
        self.position = Position::Watch(versions.newest().to_owned());
        match change.filter(|_| is_news) {
            Some(change) => sink.changed(self.resource, change, received),
            None => Ok(()),
        }
    }

    /// Where the next session begins after `failure`. What could not be understood, a resumed watch would send again;
    /// so that is listed anew, and so is what a server lists and does not let watch. One that is asked for too much
    /// (429) is not asked for more.
    fn recover(&mut self, failure: &ApiError) {
        self.position = match (failure, &self.position) {
            (ApiError::Expired { .. } | ApiError::FromTheFuture { .. }, _) => {
                Position::List(ListFrom::Newest)
            }
            (ApiError::Status { code: 429, .. }, position) => position.clone(),
            (failure, Position::Watch(version)) if failure.is_answer() => {
                Position::List(ListFrom::AtLeast(version.clone()))
            }
            (_, position) => position.clone(),
        };
    }
}

#[cfg(test)]
mod tests;
