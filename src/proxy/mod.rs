//! Forwards TCP connections in user space: to virtual IPs when the kernel cannot be told to translate them, and to
//! node-local endpoints always.
//!
//! In: whom to dial ([`ProxyRoutes`]), which virtual IPs to serve. Out: connections carried, failed dials, counts. All of
//! it happens on a thread of its own (`worker`). A listener (`listener`, `acceptor`) takes a connection, which finds
//! its backend (`order`, `dialing`, `dial`) and is then carried by splicing (`carrier`, `relay`, `direction`, `pipe`).
//!
//! The names are those of a proxy: downstream is the client's side, upstream the apiserver's.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::model::proxy_routes::ProxyRoutes;
use crate::model::types::{Backend, Vip};

mod acceptor;
mod attempt;
mod carrier;
mod connection;
mod dial;
mod dialing;
mod direction;
mod error;
pub mod fake;
mod guests;
mod limits;
mod listener;
mod listeners;
mod order;
mod pipe;
mod poller;
mod presence;
mod readiness;
mod relay;
mod shared;
mod socket;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod vessel;
mod worker;
mod young;

pub use error::ForwarderError;
pub use guests::Guests;
use limits::Limits;
use presence::{Presence, Witness};
use shared::Shared;
pub use stats::{DialFailure, Origin, ResetCause, Stats, Way};
use worker::{Command, Start};

/// What the forwarder does all the time, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwarderOptions {
    /// Node-local endpoints (`--listen`).
    pub listen: Vec<SocketAddr>,
    /// Beyond so many connections none is accepted. `None`: what the limit of descriptors allows, at six for each that
    /// is busy. At most what it allows at two for each that is idle.
    pub max_connections: Option<usize>,
    /// Beyond so many connections of one client address its next one is reset. `None`: half of all.
    pub max_per_client: Option<usize>,
}

/// Something that forwards.
pub trait Forward {
    /// Takes new routes up. Connections to backends that begin to be `ending` with them are reset at once; one that
    /// stays in that set may still be dialled where it is among the others. Connections of a virtual IP that is gone
    /// stay.
    fn route(&mut self, routes: Arc<ProxyRoutes>);

    /// Listens on every one of these virtual IPs, and withdraws from all others; whole or not at all. What is served
    /// already stays as it is, and a withdrawal of it is cancelled. Connections wait in the backlog until there is a
    /// route for the virtual IP.
    fn serve(&mut self, vips: &BTreeSet<Vip>) -> impl Future<Output = Result<(), ForwarderError>>;

    /// Stops listening on all virtual IPs, a little longer than a second after the last connection has ended, since
    /// handshakes may be under way; this does not wait for it, but [`Forward::vip_connections`] counts it. Connections stay.
    fn withdraw(&mut self) -> impl Future<Output = ()>;

    /// Open connections that came through a virtual IP, plus one for each listener that is being withdrawn. Zero
    /// after a withdrawal: nothing needs the virtual IP on this node any more.
    fn vip_connections(&self) -> usize;

    /// Resolves when [`Forward::vip_connections`] has come to zero, once each time. Cancel safe.
    fn emptied(&mut self) -> impl Future<Output = ()>;
}

/// The handle of a forwarder. When it is dropped the thread ends, and resets all connections.
pub struct Forwarder {
    commands: UnboundedSender<Command>,
    witness: Witness,
}

impl Forwarder {
    /// Listens on the node-local endpoints, raises the soft limit of descriptors to the hard one, and starts the
    /// thread. `inherited`: what [`Forwarder::listeners`] of another process returned; used in place of new
    /// listeners, so that connections in their backlogs are not lost. Those that are no node-local endpoint are
    /// served as virtual IPs until [`Forward::serve`] or [`Forward::withdraw`] says otherwise. Each failed dial is
    /// reported on `dial_failures`.
    pub fn start(
        options: ForwarderOptions,
        inherited: Vec<TcpListener>,
        dial_failures: UnboundedSender<Backend>,
        stats: Arc<Stats>,
    ) -> Result<Self, ForwarderError> {
        let (local, vips) = open(&options.listen, inherited)?;
        let limits = Limits::resolve(options.max_connections, options.max_per_client);
        let (presence, witness) = Presence::new();
        let (commands, inbox) = unbounded_channel();
        let (started, answer) = mpsc::channel();
        let shared = move || Shared::new(stats, limits, presence, dial_failures);
        thread::Builder::new()
            .name("forwarder".to_owned())
            .spawn(move || worker::run(Start { local, vips, inbox }, shared, &started))
            .map_err(ForwarderError::Thread)?;
        answer.recv().map_err(|_| ForwarderError::Stopped)?.map_err(ForwarderError::Thread)?;
        Ok(Self { commands, witness })
    }

    /// Duplicates of all listeners, for another process. They are the same sockets: whoever accepts first has the
    /// connection, and the backlog outlives either process.
    pub async fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.ask(Command::Listeners).await.ok_or_else(gone)?
    }

    /// Stops accepting at once, waits until all connections have ended or `grace` is over, and resets what is left.
    /// Returns how many those were.
    pub async fn drain(self, grace: Duration) -> usize {
        self.ask(|reply| Command::Drain(grace, reply)).await.unwrap_or(0)
    }

    /// None: the thread has ended.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }
}

impl Forward for Forwarder {
    fn route(&mut self, routes: Arc<ProxyRoutes>) {
        // The thread ends only after this side of the channel.
        let _ = self.commands.send(Command::Route(routes));
    }

    async fn serve(&mut self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        let vips = vips.clone();
        self.ask(|reply| Command::Serve(vips, reply)).await.ok_or(ForwarderError::Stopped)?
    }

    async fn withdraw(&mut self) {
        // Without a thread nothing listens.
        let _ = self.ask(Command::Withdraw).await;
    }

    fn vip_connections(&self) -> usize {
        self.witness.count()
    }

    async fn emptied(&mut self) {
        self.witness.emptied().await;
    }
}

/// The listeners of the node-local endpoints, and what else was inherited.
fn open(
    listen: &[SocketAddr],
    mut inherited: Vec<TcpListener>,
) -> Result<(Vec<TcpListener>, Vec<TcpListener>), ForwarderError> {
    let mut local = Vec::new();
    for address in BTreeSet::from_iter(listen) {
        let same = |listener: &TcpListener| listener.local_addr().is_ok_and(|local| local == *address);
        let socket = match inherited.iter().position(same) {
            Some(at) => Ok(inherited.swap_remove(at)),
            None => socket::listen(*address),
        };
        local.push(socket.map_err(|error| ForwarderError::listening(*address, error))?);
    }
    for listener in inherited.iter().chain(&local) {
        socket::adopt(listener).map_err(ForwarderError::Thread)?;
    }
    Ok((local, inherited))
}

/// Without a forwarder nothing is forwarded.
impl<F: Forward> Forward for Option<F> {
    fn route(&mut self, routes: Arc<ProxyRoutes>) {
        if let Some(forwarder) = self {
            forwarder.route(routes);
        }
    }

    async fn serve(&mut self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        match self {
            Some(forwarder) => forwarder.serve(vips).await,
            None => Err(ForwarderError::Stopped),
        }
    }

    async fn withdraw(&mut self) {
        if let Some(forwarder) = self {
            forwarder.withdraw().await;
        }
    }

    fn vip_connections(&self) -> usize {
        self.as_ref().map_or(0, Forward::vip_connections)
    }

    async fn emptied(&mut self) {
        match self {
            Some(forwarder) => forwarder.emptied().await,
            None => std::future::pending().await,
        }
    }
}
