//! The open connections: who has them, where they go, and how many there may be.

use std::cell::RefCell;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::limits::Limits;
use super::presence::Hold;
use super::shared::Shared;
use super::stats::{Origin, ResetCause, Stats};
use crate::model::types::Backend;

pub(super) struct Table {
    limits: Limits,
    state: RefCell<State>,
    emptied: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    entries: HashMap<u64, Entry>,
    clients: HashMap<IpAddr, usize>,
}

struct Entry {
    client: IpAddr,
    /// None while it is being dialled.
    backend: Option<Backend>,
    /// None until its task was started.
    task: Option<AbortHandle>,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: RefCell::default(), emptied: Notify::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.state.borrow().entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limits.connections
    }

    /// Resets the connections to these backends. Those that are being dialled hear of it on their own.
    pub(super) fn reset_those_of(&self, ending: &BTreeSet<Backend>, stats: &Stats) {
        let state = self.state.borrow();
        for entry in state.entries.values() {
            if entry.backend.is_some_and(|backend| ending.contains(&backend))
                && let Some(task) = &entry.task
            {
                // The sockets of a connection that ends before its time are reset.
                task.abort();
                stats.count_reset(ResetCause::BackendDown);
            }
        }
    }

    /// Waits until there is no connection.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.emptied.notified().await;
        }
    }
}

/// A connection's place in the table, until it is dropped.
pub(super) struct Ticket {
    id: u64,
    origin: Origin,
    shared: Rc<Shared>,
    _hold: Option<Hold>,
}

impl Ticket {
    /// None: this client has as many as it may have.
    pub(super) fn admit(shared: &Rc<Shared>, origin: Origin, client: IpAddr) -> Option<Self> {
        let mut state = shared.table.state.borrow_mut();
        let count = state.clients.entry(client).or_default();
        if *count >= shared.table.limits.per_client {
            return None;
        }
        *count += 1;
        let id = state.next;
        state.next += 1;
        state.entries.insert(id, Entry { client, backend: None, task: None });
        shared.stats.opened(origin);
        let hold = (origin == Origin::Vip).then(|| shared.presence.hold());
        Some(Self { id, origin, shared: Rc::clone(shared), _hold: hold })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Its backend was found.
    pub(super) fn connected(&self, backend: Backend) {
        self.entry(|entry| entry.backend = Some(backend));
    }

    /// Gives the connection to a task of its own.
    pub(super) fn start<F: Future<Output = ()> + 'static>(self, task: impl FnOnce(Self) -> F) {
        let (id, shared) = (self.id, Rc::clone(&self.shared));
        let handle = tokio::task::spawn_local(task(self)).abort_handle();
        if let Some(entry) = shared.table.state.borrow_mut().entries.get_mut(&id) {
            entry.task = Some(handle);
        }
    }

    fn entry(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.shared.table.state.borrow_mut().entries.get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let table = &self.shared.table;
        let mut state = table.state.borrow_mut();
        let was_full = state.entries.len() >= table.limits.connections;
        if let Some(entry) = state.entries.remove(&self.id)
            && let Slot::Occupied(mut count) = state.clients.entry(entry.client)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if state.entries.is_empty() {
            table.emptied.notify_waiters();
        }
        drop(state);
        self.shared.stats.closed(self.origin);
        if was_full {
            self.shared.unpark();
        }
    }
}
