//! All listening addresses: those of virtual IPs, which come and go, and those of `--listen`, which stay.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{self, TcpListener};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ForwarderError;
use super::listener::Listening;
use super::shared::Shared;
use super::socket;
use super::stats::Origin;
use crate::model::types::Vip;

pub(super) struct Listeners {
    shared: Rc<Shared>,
    vips: RefCell<BTreeMap<Vip, Listening>>,
    local: RefCell<Vec<Listening>>,
    /// For the tasks of withdrawn listeners.
    this: Weak<Self>,
}

impl Listeners {
    /// `vips` are those that another process handed over. They are served from the start, since their backlogs may
    /// hold connections.
    pub(super) fn start(
        shared: Rc<Shared>,
        local: Vec<net::TcpListener>,
        vips: Vec<net::TcpListener>,
    ) -> io::Result<Rc<Self>> {
        let listeners = Rc::new_cyclic(|this| Self {
            shared,
            vips: RefCell::default(),
            local: RefCell::default(),
            this: Weak::clone(this),
        });
        for socket in local {
            let address = socket.local_addr()?;
            let socket = watched(socket)?;
            let listening = Listening::start(socket, Origin::Listen, address, &listeners.shared, || {});
            listeners.local.borrow_mut().push(listening);
        }
        for socket in vips {
            let address = socket.local_addr()?;
            listeners.add(address, watched(socket)?);
        }
        Ok(listeners)
    }

    /// Listens on these virtual IPs and withdraws from the others; whole or not at all.
    pub(super) fn serve(&self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        let mut bound = Vec::new();
        for vip in vips.iter().filter(|vip| !self.vips.borrow().contains_key(vip)) {
            let socket = socket::listen(*vip).and_then(watched);
            bound.push((*vip, socket.map_err(|error| ForwarderError::listening(*vip, error))?));
        }
        for (vip, socket) in bound {
            self.add(vip, socket);
        }
        for (vip, listening) in self.vips.borrow_mut().iter_mut() {
            if vips.contains(vip) { listening.serve() } else { listening.withdraw(&self.shared) }
        }
        Ok(())
    }

    /// Closes the listeners of virtual IPs once nobody comes any more.
    pub(super) fn withdraw(&self) {
        for listening in self.vips.borrow_mut().values_mut() {
            listening.withdraw(&self.shared);
        }
    }

    /// Closes all listeners now. What waits in the backlog of one that was handed over is accepted elsewhere.
    pub(super) fn close(&self) {
        self.vips.borrow_mut().clear();
        self.local.borrow_mut().clear();
    }

    /// Other descriptors of the same sockets.
    pub(super) fn duplicate(&self) -> io::Result<Vec<net::TcpListener>> {
        let (vips, local) = (self.vips.borrow(), self.local.borrow());
        let duplicate = |listening: &Listening| Ok(listening.socket().as_fd().try_clone_to_owned()?.into());
        vips.values().chain(local.iter()).map(duplicate).collect()
    }

    fn add(&self, vip: Vip, socket: AsyncFd<TcpListener>) {
        let this = Weak::clone(&self.this);
        let quiet = move || {
            // Dropped when nothing is borrowed any more: its end may wake others.
            let ended = this.upgrade().and_then(|this| this.vips.borrow_mut().remove(&vip));
            drop(ended);
        };
        let listening = Listening::start(socket, Origin::Vip, vip, &self.shared, quiet);
        self.vips.borrow_mut().insert(vip, listening);
    }
}

#[expect(
    deprecated,
    reason = "its successor asks for what this code must not promise; a listener keeps it anyway"
)]
fn watched(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}
