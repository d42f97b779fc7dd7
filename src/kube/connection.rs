//! What the daemon knows of its connection to the API, for status, metrics and the log.
//!
//! In: the steps of each session. Out: a [`Connection`] for status and metrics, and one log line when a failure starts,
//! changes or ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

use super::client::ApiError;
use super::reflector::ReflectorCounter;
use super::resource::Resource;
use crate::process::clock;
use crate::transport::certificates::Expiry;

/// How many different failures of one outage are logged. Servers word their messages as they like.
const LOGGED_FAILURES: usize = 32;

/// The connection to the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Whether the view is current.
    pub state: ConnectionState,
    /// Since when it is in this state. Serialized as seconds since 1970.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// The apiserver that the session is with.
    pub address: Option<SocketAddr>,
    /// The `resourceVersion` up to which the endpoints have been read.
    pub resource_version: Option<String>,
    /// When the last list, event or bookmark of either collection arrived.
    #[serde(skip)]
    pub heard: Option<Instant>,
    /// Why the last session ended or does not read one of the collections, one line. Kept until the next success.
    pub last_error: Option<String>,
    /// The credential plugin that has not answered yet, and since when it runs.
    #[serde(skip)]
    pub plugin: Option<(String, Instant)>,
    /// When the CA and the credentials expire.
    pub expiry: Expiry,
    /// Sessions after the first.
    pub reconnects: u64,
    /// Lists of a collection after its first.
    pub relists: u64,
    /// Events that changed an object.
    pub events: u64,
    /// Bookmarks.
    pub bookmarks: u64,
    /// Events and bookmarks that were not newer than what was known.
    pub stale: u64,
}

/// Whether the view of the API is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Nothing has been read yet.
    Connecting,
    /// Both collections are watched.
    Synced,
    /// What was read stands, but changes do not arrive.
    Degraded,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            state: ConnectionState::Connecting,
            since: SystemTime::now(),
            address: None,
            resource_version: None,
            heard: None,
            last_error: None,
            plugin: None,
            expiry: Expiry::default(),
            reconnects: 0,
            relists: 0,
            events: 0,
            bookmarks: 0,
            stale: 0,
        }
    }
}

fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(clock::unix_seconds(*time))
}

/// Keeps a [`Connection`] up to date and logs its changes.
#[derive(Debug)]
pub(super) struct Reporter {
    sender: watch::Sender<Connection>,
    watching: BTreeSet<Resource>,
    synced_at: Option<Instant>,
    logged: BTreeSet<String>,
    /// Since when the API is not read, and how often that was tried since. By the runtime's clock.
    outage: Option<(tokio::time::Instant, u64)>,
}

impl Reporter {
    pub(super) fn new(sender: watch::Sender<Connection>) -> Self {
        Self { sender, watching: BTreeSet::new(), synced_at: None, logged: BTreeSet::new(), outage: None }
    }

    /// A watch was accepted by `address`. Two collections make the view current.
    pub(super) fn watching(&mut self, resource: Resource, address: Option<SocketAddr>) {
        self.watching.insert(resource);
        self.sender.send_modify(|connection| connection.address = address);
        if self.watching.len() < 2 || self.synced_at.is_some() {
            return;
        }
        let now = Instant::now();
        self.synced_at = Some(now);
        self.sender.send_modify(|connection| {
            set_state(connection, ConnectionState::Synced);
            connection.last_error = None;
        });
        let address = address.map(tracing::field::display);
        match self.outage.take() {
            Some((begin, failures)) => {
                let outage_seconds = begin.elapsed().as_secs();
                tracing::info!(
                    event = %"api_recovered", address, outage_seconds, failures,
                    "Synced with Kubernetes API again"
                );
            }
            None => tracing::info!(event = %"api_synced", address, "Synced with Kubernetes API"),
        }
        self.logged.clear();
    }

    /// The session with `address` ended. Returns for how long both collections had been current in it.
    pub(super) fn session_failed(
        &mut self,
        error: &ApiError,
        address: Option<SocketAddr>,
    ) -> Option<Duration> {
        self.watching.clear();
        self.record_failure(error, address);
        self.outage.get_or_insert_with(|| (tokio::time::Instant::now(), 0)).1 += 1;
        self.sender.send_modify(|connection| {
            connection.address = None;
            connection.reconnects += 1;
        });
        self.synced_at.take().map(|at| at.elapsed())
    }

    /// One collection is not read any more in the session with `address`, the other may be. Returns for how long both had
    /// been current.
    pub(super) fn collection_refused(
        &mut self,
        resource: Resource,
        error: &ApiError,
        address: Option<SocketAddr>,
    ) -> Option<Duration> {
        self.watching.remove(&resource);
        self.record_failure(error, address);
        self.outage.get_or_insert_with(|| (tokio::time::Instant::now(), 0));
        self.synced_at.take().map(|at| at.elapsed())
    }

    fn record_failure(&mut self, error: &ApiError, address: Option<SocketAddr>) {
        let text = error.to_string();
        let line = (address.map(|address| address.to_string()).unwrap_or_default(), &text);
        if self.logged.len() < LOGGED_FAILURES && self.logged.insert(format!("{line:?}")) {
            let address = address.map(tracing::field::display);
            tracing::warn!(event = %"api_read_failed", address, error = %text, "Failed to read Kubernetes API");
        }
        self.sender.send_modify(|connection| {
            if connection.state == ConnectionState::Synced {
                set_state(connection, ConnectionState::Degraded);
            }
            connection.last_error = Some(text);
        });
    }

    /// The session ends for a good reason.
    pub(super) fn session_moved(&mut self) {
        self.watching.clear();
        self.synced_at = None;
        self.sender.send_modify(|connection| {
            connection.address = None;
            connection.reconnects += 1;
        });
    }

    /// A session waits for this credential plugin, or for none any more.
    pub(super) fn set_running_plugin(&self, plugin: Option<&str>) {
        let plugin = plugin.map(|command| (command.to_owned(), Instant::now()));
        self.sender.send_modify(|connection| connection.plugin = plugin);
    }

    /// These are used from now on.
    pub(super) fn set_expiry(&self, expiry: Expiry) {
        self.sender.send_if_modified(|connection| {
            let changed = connection.expiry != expiry;
            connection.expiry = expiry;
            changed
        });
    }

    /// A list, an event or a bookmark came, and this is how far the collection has been read.
    pub(super) fn reached(&self, resource: Resource, version: &str) {
        self.sender.send_modify(|connection| {
            connection.heard = Some(Instant::now());
            if resource != Resource::Service && !version.is_empty() {
                connection.resource_version = Some(version.to_owned());
            }
        });
    }

    pub(super) fn count(&self, what: ReflectorCounter) {
        self.sender.send_modify(|connection| match what {
            ReflectorCounter::Event => connection.events += 1,
            ReflectorCounter::Bookmark => connection.bookmarks += 1,
            ReflectorCounter::Stale => connection.stale += 1,
            ReflectorCounter::Relist => connection.relists += 1,
        });
    }
}

fn set_state(connection: &mut Connection, state: ConnectionState) {
    if connection.state != state {
        connection.state = state;
        connection.since = SystemTime::now();
    }
}

#[cfg(test)]
mod tests;
