//! How many connections there are, and how many one client has.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;

use super::limits::Limits;
use super::presence::Hold;
use super::shared::Shared;
use super::stats::Origin;

pub(super) struct Table {
    limits: Limits,
    open: Cell<usize>,
    clients: RefCell<HashMap<IpAddr, usize>>,
    emptied: Notify,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Cell::default(), clients: RefCell::default(), emptied: Notify::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.open.get()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limits.connections
    }

    /// Waits until there is no connection.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.emptied.notified().await;
        }
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Ticket {
    client: IpAddr,
    origin: Origin,
    shared: Rc<Shared>,
    _hold: Option<Hold>,
}

impl Ticket {
    /// None: this client has as many as it may have.
    pub(super) fn admit(shared: &Rc<Shared>, origin: Origin, client: IpAddr) -> Option<Self> {
        let table = &shared.table;
        let mut clients = table.clients.borrow_mut();
        let count = clients.entry(client).or_default();
        if *count >= table.limits.per_client {
            return None;
        }
        *count += 1;
        table.open.update(|open| open + 1);
        shared.stats.opened(origin);
        let hold = (origin == Origin::Vip).then(|| shared.presence.hold());
        Some(Self { client, origin, shared: Rc::clone(shared), _hold: hold })
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let table = &self.shared.table;
        let was_full = table.is_full();
        table.open.update(|open| open - 1);
        if let Entry::Occupied(mut count) = table.clients.borrow_mut().entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.shared.stats.closed(self.origin);
        if table.len() == 0 {
            table.emptied.notify_waiters();
        }
        if was_full {
            self.shared.unpark();
        }
    }
}
