//! The table of open watches: who watches what, and a way to speak to each.
//!
//! In: watches that start and end, and orders for all of them. Out: one command channel per watch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::sim::protocol::{Inject, Injection, OpenWatch, Resource};

/// Orders that may wait for one watch; a watch that does not take them is counted as not reached.
const QUEUE: usize = 16;

/// The table.
#[derive(Default)]
pub(super) struct Watches {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Entry>>,
}

struct Entry {
    what: OpenWatch,
    resource: Resource,
    orders: mpsc::Sender<Injection>,
}

/// Keeps a watch in the table until dropped.
pub(super) struct Registration {
    id: u64,
    table: Arc<Watches>,
    /// What is ordered to be written into it.
    pub(super) orders: mpsc::Receiver<Injection>,
}

impl Watches {
    pub(super) fn register(
        self: &Arc<Self>,
        resource: Resource,
        path: &str,
        resource_version: Option<String>,
        peer: SocketAddr,
    ) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, orders) = mpsc::channel(QUEUE);
        let what = OpenWatch { path: path.to_owned(), resource_version, peer };
        self.entries().insert(id, Entry { what, resource, orders: sender });
        Registration { id, table: self.clone(), orders }
    }

    /// Passes an order on and says how many watches took it.
    pub(super) fn inject(&self, inject: &Inject) -> usize {
        self.entries()
            .values()
            .filter(|entry| inject.resource.is_none_or(|resource| resource == entry.resource))
            .filter(|entry| entry.orders.try_send(inject.what.clone()).is_ok())
            .count()
    }

    /// The open watches, oldest first.
    pub(super) fn list(&self) -> Vec<OpenWatch> {
        self.entries().values().map(|entry| entry.what.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.entries().remove(&self.id);
    }
}
