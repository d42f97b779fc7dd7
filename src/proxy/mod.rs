//! The user-space TCP proxy ("forwarder"): serves virtual IPs when the kernel cannot translate them, and the node-local
//! endpoints (`--listen`) always.
//!
//! In: which backends to dial ([`ProxyRoutes`]), which virtual IPs to serve. Out: proxied connections, failed dials, counts.
//! Everything happens on a thread with a runtime of its own, so that load on it never delays a health decision.
//!
//! A connection passes through these files: `listener` accepts it, `connect` finds its backend (in the order and at the
//! times of `happy_eyeballs`), `proxy_loop` owns it from then on, and `splice` moves its bytes (as `half_duplex` decides).
//! `admission` limits and counts connections. Downstream is the client's side, upstream the apiserver's.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::model::proxy_routes::ProxyRoutes;
use crate::model::types::{Backend, Vip};

mod admission;
mod connect;
pub mod fake;
mod half_duplex;
mod happy_eyeballs;
mod listener;
mod proxy_loop;
mod socket;
mod splice;
mod stats;
#[cfg(test)]
mod tests;

use admission::{ConnectionCount, ConnectionCountReader, ConnectionTable, Limits};
use connect::Shared;
pub use listener::ForwarderError;
use listener::Listeners;
use proxy_loop::{LoopCommand, ProxyLoop};
pub use stats::{
    DialFailure, Direction, ExpectedPeers, ForwardedConnections, OpenConnection, Origin, ResetCause, Stats,
};

/// What the forwarder always serves, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwarderOptions {
    /// Node-local endpoints (`--listen`).
    pub listen: Vec<SocketAddr>,
    /// Beyond so many connections none is accepted. `None`: what the limit of descriptors allows at six for each (a busy
    /// connection). Capped at what it allows at two for each (an idle one).
    pub max_connections: Option<usize>,
    /// Beyond so many connections of one client address its next one is reset. `None`: half of all.
    pub max_per_client: Option<usize>,
}

/// What the reconciler needs of a proxy.
pub trait Forward {
    /// Replaces the routes. Connections to backends that enter `ending` with them are reset at once; a backend that stays
    /// in that set may still be dialed if it is among the others. Connections of a virtual IP that is gone stay.
    fn route(&mut self, routes: Arc<ProxyRoutes>);

    /// Listens on each of these virtual IPs, and withdraws from all others; all or nothing. A virtual IP that is served
    /// already stays as it is, and its withdrawal is canceled. Connections wait in the backlog until there is a route for
    /// the virtual IP.
    fn serve(&mut self, vips: &BTreeSet<Vip>) -> impl Future<Output = Result<(), ForwarderError>>;

    /// Stops listening on all virtual IPs, a little longer than a second after the last connection has ended, since
    /// handshakes may be in progress. This returns before that, but [`Forward::vip_connections`] counts it. Connections
    /// stay.
    fn withdraw(&mut self) -> impl Future<Output = ()>;

    /// Open connections that came through a virtual IP, plus one for each listener that is being withdrawn. Zero
    /// after a withdrawal: the virtual IP is not needed on this node any more.
    fn vip_connections(&self) -> usize;

    /// Resolves when [`Forward::vip_connections`] has dropped to zero, once each time. Cancel safe.
    fn emptied(&mut self) -> impl Future<Output = ()>;
}

/// `None` is a proxy that serves nothing.
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

/// The handle of the proxy's thread. When it is dropped the thread ends, and resets all connections.
pub struct Forwarder {
    commands: UnboundedSender<Command>,
    vip_connections: ConnectionCountReader,
}

impl Forwarder {
    /// Listens on the node-local endpoints, raises the soft limit of descriptors to the hard one, and starts the
    /// thread. `inherited`: what [`Forwarder::listeners`] of another process returned; they are used in place of new
    /// listeners, so that connections in their backlogs are not lost. Those that are not node-local endpoints are served
    /// as virtual IPs until [`Forward::serve`] or [`Forward::withdraw`] changes that. Each failed dial is reported on
    /// `dial_failures`.
    pub fn start(
        options: ForwarderOptions,
        inherited: Vec<TcpListener>,
        dial_failures: UnboundedSender<Backend>,
        stats: Arc<Stats>,
    ) -> Result<Self, ForwarderError> {
        let sockets = open(&options.listen, inherited)?;
        let limits = Limits::resolve(options.max_connections, options.max_per_client);
        let (through_vips, vip_connections) = ConnectionCount::new();
        let (commands, inbox) = unbounded_channel();
        let (started, answer) = mpsc::channel();
        let shared = move || {
            let connections = ConnectionTable::new(limits, Arc::clone(&stats), through_vips);
            Shared::new(stats, connections, dial_failures)
        };
        thread::Builder::new()
            .name("forwarder".to_owned())
            .spawn(move || run(sockets, inbox, shared, &started))
            .map_err(ForwarderError::Thread)?;
        answer.recv().map_err(|_| ForwarderError::Stopped)?.map_err(ForwarderError::Thread)?;
        Ok(Self { commands, vip_connections })
    }

    /// Duplicates of all listeners, for another process. They are the same sockets: the first process to accept gets the
    /// connection, and the backlog outlives either process.
    pub async fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.ask(Command::Listeners).await.ok_or_else(ended)?
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
        // The thread runs for as long as this handle lives.
        let _ = self.commands.send(Command::Route(routes));
    }

    async fn serve(&mut self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        let vips = vips.clone();
        self.ask(|reply| Command::Serve(vips, reply)).await.ok_or(ForwarderError::Stopped)?
    }

    async fn withdraw(&mut self) {
        // If the thread has ended, nothing listens.
        let _ = self.ask(Command::Withdraw).await;
    }

    fn vip_connections(&self) -> usize {
        self.vip_connections.count()
    }

    async fn emptied(&mut self) {
        self.vip_connections.emptied().await;
    }
}

/// Listeners that are open when the thread starts.
struct Sockets {
    local: Vec<TcpListener>,
    vips: Vec<TcpListener>,
}

/// A command to the thread. The receiver of its reply may be gone.
enum Command {
    Route(Arc<ProxyRoutes>),
    Serve(BTreeSet<Vip>, oneshot::Sender<Result<(), ForwarderError>>),
    Withdraw(oneshot::Sender<()>),
    Listeners(oneshot::Sender<io::Result<Vec<TcpListener>>>),
    Drain(Duration, oneshot::Sender<usize>),
}

/// The thread: runs until it was drained or its handle was dropped, and reports on `started` whether it could begin.
fn run(
    sockets: Sockets,
    inbox: UnboundedReceiver<Command>,
    shared: impl FnOnce() -> (Shared, UnboundedReceiver<LoopCommand>),
    started: &mpsc::Sender<io::Result<()>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    let (drained, shared) = runtime.block_on(async {
        let (shared, loop_commands) = shared();
        let shared = Rc::new(shared);
        let proxy_loop = ProxyLoop::new(Arc::clone(&shared.stats), Rc::clone(&shared.pipes));
        let began = proxy_loop.and_then(|proxy_loop| {
            Ok((proxy_loop, Listeners::start(Rc::clone(&shared), sockets.local, sockets.vips)?))
        });
        let (proxy_loop, listeners) = match began {
            Ok(began) => began,
            Err(error) => {
                let _ = started.send(Err(error));
                return (None, shared);
            }
        };
        let _ = started.send(Ok(()));
        tokio::task::spawn_local(proxy_loop.run(loop_commands));
        (execute(&shared, &listeners, inbox).await, shared)
    });
    // Ends every task, and so resets every connection that is left.
    drop(runtime);
    // The channel of failed dials closes after the last connection.
    drop(shared);
    if let Some((reply, left)) = drained {
        let _ = reply.send(left);
    }
}

/// Executes commands. After a drain returns how many connections are left, and the channel for that reply.
async fn execute(
    shared: &Shared,
    listeners: &Listeners,
    mut inbox: UnboundedReceiver<Command>,
) -> Option<(oneshot::Sender<usize>, usize)> {
    loop {
        match inbox.recv().await? {
            Command::Route(routes) => shared.route(routes),
            Command::Serve(vips, reply) => drop(reply.send(listeners.serve(&vips))),
            Command::Withdraw(reply) => {
                listeners.withdraw();
                let _ = reply.send(());
            }
            Command::Listeners(reply) => drop(reply.send(listeners.duplicate())),
            Command::Drain(grace, reply) => {
                listeners.close();
                // Whether or not it timed out, what counts is how many are left.
                let _ = timeout(grace, shared.connections.emptied()).await;
                return Some((reply, shared.connections.len()));
            }
        }
    }
}

/// The listeners of the node-local endpoints, and the other inherited ones.
fn open(listen: &[SocketAddr], mut inherited: Vec<TcpListener>) -> Result<Sockets, ForwarderError> {
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
    Ok(Sockets { local, vips: inherited })
}
