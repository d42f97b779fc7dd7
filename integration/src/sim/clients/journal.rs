//! Writes the history of every connection down while it happens.
//!
//! In: what clients see, and when. Out: a [`Timeline`] at any time, and each end of a long-lived connection at once.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::http::Broken;
use super::timeline::{Connection, End, Kind, Timeline, monotonic_us};

/// Told of each long-lived connection that ends.
type Ended = Box<dyn Fn(&Connection) + Send + Sync>;

/// The histories of one run.
pub(super) struct Journal {
    began: Instant,
    began_us: u64,
    connections: Mutex<Vec<Connection>>,
    ended: Ended,
}

/// One connection's place in the journal.
#[derive(Clone, Copy)]
pub(super) struct Entry(usize);

impl Journal {
    pub(super) fn new(ended: Ended) -> Self {
        Self { began: Instant::now(), began_us: monotonic_us(), connections: Mutex::default(), ended }
    }

    /// A connection begins.
    pub(super) fn begin(&self, kind: Kind, target: SocketAddr) -> Entry {
        let mut connections = self.lock();
        connections.push(Connection::new(kind, target, self.now_ms()));
        Entry(connections.len() - 1)
    }

    /// What is known of its client's address.
    pub(super) fn local(&self, entry: Entry, local: Option<SocketAddr>) {
        self.lock()[entry.0].local = local;
    }

    /// TCP got through.
    pub(super) fn connected(&self, entry: Entry) {
        let now = self.now_ms();
        self.lock()[entry.0].connected_ms = Some(now);
    }

    /// The server said something, or took what the client said.
    pub(super) fn progress(&self, entry: Entry) {
        let now = self.now_ms();
        let connection = &mut self.lock()[entry.0];
        connection.first_byte_ms.get_or_insert(now);
        let last = connection.last_byte_ms.replace(now).unwrap_or(now);
        connection.longest_gap_ms = connection.longest_gap_ms.max(now - last);
    }

    /// It ended.
    pub(super) fn end(&self, entry: Entry, end: End, detail: String) {
        let now = self.now_ms();
        let connection = &mut self.lock()[entry.0];
        connection.ended_ms = Some(now);
        connection.end = Some(end);
        connection.detail = detail;
        if connection.kind != Kind::Fresh {
            (self.ended)(connection);
        }
    }

    /// It broke.
    pub(super) fn broke(&self, entry: Entry, broken: Broken) {
        match broken {
            Broken::Closed => self.end(entry, End::Closed, String::new()),
            Broken::Failed(failure) => self.end(entry, End::Failed(failure.reason), failure.detail),
        }
    }

    /// Everything so far.
    pub(super) fn timeline(&self) -> Timeline {
        Timeline { began_us: self.began_us, connections: self.lock().clone() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
