//! The listening sockets: those of `--listen`, which stay, and those of virtual IPs, which come and go.
//!
//! In: the addresses to serve, sockets that another process handed over. Out: accepted connections, each given to
//! [`connect::start`]; a connection is accepted only if there is a route for it and room in the connection table, and
//! waits in the kernel's backlog until then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, poll_fn};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::admission::ConnectionCountGuard;
use super::connect::{self, Shared};
use super::socket;
use super::stats::{Origin, Stats};
use crate::model::types::Vip;

/// A withdrawn listener is closed after no client has come for so long: the kernel repeats a handshake whose last ACK was
/// lost after 1 s, and closing earlier would cut it. Nor may a connection be open: clients reuse the ports of connections
/// that ended, and conntrack sends them here for as long as it has the entry.
const WITHDRAW_QUIET: Duration = Duration::from_millis(1200);
/// Pause after the kernel had no descriptor or memory for a connection, which stays in the backlog.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Why the forwarder did not start, or does not serve an address.
#[derive(Debug, thiserror::Error)]
pub enum ForwarderError {
    /// EADDRINUSE: the kernel does not say who it is.
    #[error("listen on {0}: another program listens on port {port}, on this address or on all addresses", port = .0.port())]
    InUse(SocketAddr),
    /// EACCES (`__inet_bind`, net/ipv4/af_inet.c): the port is below net.ipv4.ip_unprivileged_port_start.
    #[error(
        "listen on {0}: port {port} is privileged; grant the daemon CAP_NET_BIND_SERVICE",
        port = .0.port()
    )]
    Reserved(SocketAddr),
    /// The address cannot be listened on for any other reason.
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The thread or its runtime could not be started.
    #[error("start the forwarder's thread")]
    Thread(#[source] io::Error),
    /// The thread has ended.
    #[error("the forwarder's thread has ended")]
    Stopped,
}

impl ForwarderError {
    pub(super) fn listening(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => Self::InUse(address),
            _ if source.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => Self::Reserved(address),
            _ => Self::Listen { address, source },
        }
    }
}

/// All listening sockets.
pub(super) struct Listeners {
    shared: Rc<Shared>,
    vips: RefCell<BTreeMap<Vip, Listener>>,
    local: RefCell<Vec<Listener>>,
    /// For the tasks of withdrawn listeners.
    this: Weak<Self>,
}

impl Listeners {
    /// `vips` are those that another process handed over. They are served from the start, since their backlogs may
    /// hold connections.
    pub(super) fn start(
        shared: Rc<Shared>,
        local: Vec<TcpListener>,
        vips: Vec<TcpListener>,
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
            let listener = Listener::start(socket, Origin::Listen, address, &listeners.shared, || {});
            listeners.local.borrow_mut().push(listener);
        }
        for socket in vips {
            let address = socket.local_addr()?;
            listeners.add(address, watched(socket)?);
        }
        Ok(listeners)
    }

    /// Listens on these virtual IPs and withdraws from all others; all or nothing.
    pub(super) fn serve(&self, vips: &BTreeSet<Vip>) -> Result<(), ForwarderError> {
        let mut bound = Vec::new();
        for vip in vips.iter().filter(|vip| !self.vips.borrow().contains_key(vip)) {
            let socket = socket::listen(*vip).and_then(watched);
            bound.push((*vip, socket.map_err(|error| ForwarderError::listening(*vip, error))?));
        }
        for (vip, socket) in bound {
            self.add(vip, socket);
        }
        for (vip, listener) in self.vips.borrow_mut().iter_mut() {
            if vips.contains(vip) { listener.serve() } else { listener.withdraw(&self.shared) }
        }
        Ok(())
    }

    /// Closes the listeners of virtual IPs once no client comes any more.
    pub(super) fn withdraw(&self) {
        for listener in self.vips.borrow_mut().values_mut() {
            listener.withdraw(&self.shared);
        }
    }

    /// Closes all listeners now. If a socket was handed over, the other process accepts what is in its backlog.
    pub(super) fn close(&self) {
        self.vips.borrow_mut().clear();
        self.local.borrow_mut().clear();
    }

    /// Other descriptors of the same sockets, for the hand-over to another process.
    pub(super) fn duplicate(&self) -> io::Result<Vec<TcpListener>> {
        let (vips, local) = (self.vips.borrow(), self.local.borrow());
        let duplicate = |listener: &Listener| Ok(listener.socket().as_fd().try_clone_to_owned()?.into());
        vips.values().chain(local.iter()).map(duplicate).collect()
    }

    fn add(&self, vip: Vip, socket: AsyncFd<TcpListener>) {
        let this = Weak::clone(&self.this);
        let quiet = move || {
            // Dropped when nothing is borrowed any more: its end may wake other tasks.
            let ended = this.upgrade().and_then(|this| this.vips.borrow_mut().remove(&vip));
            drop(ended);
        };
        let listener = Listener::start(socket, Origin::Vip, vip, &self.shared, quiet);
        self.vips.borrow_mut().insert(vip, listener);
    }
}

#[expect(
    deprecated,
    reason = "its successor asks for what this code must not promise; a listener keeps it anyway"
)]
fn watched(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// A listening socket and its task, which ends with it.
struct Listener {
    socket: Rc<AsyncFd<TcpListener>>,
    /// Whether it is being withdrawn.
    withdrawn: watch::Sender<bool>,
    /// While it is being withdrawn.
    vip_guard: Option<ConnectionCountGuard>,
    task: AbortHandle,
}

impl Listener {
    /// `quiet` is called when it was withdrawn and no client comes any more, to drop what this returned.
    fn start(
        socket: AsyncFd<TcpListener>,
        origin: Origin,
        address: SocketAddr,
        shared: &Rc<Shared>,
        quiet: impl FnOnce() + 'static,
    ) -> Self {
        let socket = Rc::new(socket);
        let (withdrawn, withdrawals) = watch::channel(false);
        let acceptor = Acceptor::new(Rc::clone(&socket), origin, address, Rc::clone(shared));
        let task = accept_until_quiet(acceptor, withdrawals);
        let task = tokio::task::spawn_local(async move {
            task.await;
            quiet();
        });
        Self { socket, withdrawn, vip_guard: None, task: task.abort_handle() }
    }

    fn socket(&self) -> &TcpListener {
        self.socket.get_ref()
    }

    fn withdraw(&mut self, shared: &Shared) {
        if self.vip_guard.is_none() {
            self.vip_guard = Some(shared.connections.hold_vips());
            self.withdrawn.send_replace(true);
        }
    }

    fn serve(&mut self) {
        if self.vip_guard.take().is_some() {
            self.withdrawn.send_replace(false);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts until the listener was withdrawn, no client comes any more and the last connection has ended.
async fn accept_until_quiet(mut acceptor: Acceptor, mut withdrawn: watch::Receiver<bool>) {
    let mut quiet_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            Ok(()) = withdrawn.changed() => {
                quiet_at = withdrawn.borrow_and_update().then(|| Instant::now() + WITHDRAW_QUIET);
            }
            (stream, client) = poll_fn(|cx| acceptor.poll_accept(cx)) => {
                connect::start(&acceptor.shared, acceptor.origin, &acceptor.address, stream, client);
                quiet_at = quiet_at.map(|_| Instant::now() + WITHDRAW_QUIET);
            }
            () = async {
                match quiet_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            } => {
                if !acceptor.is_paused() && acceptor.shared.stats.open(acceptor.origin) == 0 {
                    return;
                }
                quiet_at = Some(Instant::now() + WITHDRAW_QUIET);
            }
        }
    }
}

/// Accepts connections from one listener, but only those that can be served.
struct Acceptor {
    listener: Rc<AsyncFd<TcpListener>>,
    origin: Origin,
    address: SocketAddr,
    shared: Rc<Shared>,
    pause: Option<AcceptPause>,
    backoff: Option<Pin<Box<Sleep>>>,
}

impl Acceptor {
    fn new(
        listener: Rc<AsyncFd<TcpListener>>,
        origin: Origin,
        address: SocketAddr,
        shared: Rc<Shared>,
    ) -> Self {
        Self { listener, origin, address, shared, pause: None, backoff: None }
    }

    /// The backlog may hold connections that cannot be accepted now.
    fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// The next connection, once there is a route for it and room.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(TcpStream, SocketAddr)> {
        loop {
            if let Some(backoff) = &mut self.backoff {
                ready!(backoff.as_mut().poll(cx));
                self.backoff = None;
            }
            if self.shared.with_route(self.origin, &self.address, |_| ()).is_none() {
                self.shared.connections.park_listener(cx);
                return Poll::Pending;
            }
            if self.shared.connections.is_full() {
                self.pause();
                self.shared.connections.park_listener(cx);
                return Poll::Pending;
            }
            match poll_accept(&self.listener, cx) {
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {
                    // That client has left, and is out of the backlog: the next.
                }
                Poll::Ready(Err(_)) => {
                    self.pause();
                    self.shared.pipes.close_idle();
                    self.backoff = Some(Box::pin(sleep(ACCEPT_BACKOFF)));
                }
                Poll::Ready(Ok(accepted)) => {
                    self.pause = None;
                    return Poll::Ready(accepted);
                }
                Poll::Pending => {
                    self.pause = None;
                    return Poll::Pending;
                }
            }
        }
    }

    fn pause(&mut self) {
        if self.pause.is_none() {
            self.pause = Some(AcceptPause::new(&self.shared.stats));
        }
    }
}

/// Counted in the statistics while it lives.
struct AcceptPause(Arc<Stats>);

impl AcceptPause {
    fn new(stats: &Arc<Stats>) -> Self {
        stats.pause_begins();
        Self(Arc::clone(stats))
    }
}

impl Drop for AcceptPause {
    fn drop(&mut self) {
        self.0.pause_ends();
    }
}

/// Only the listener is registered with the runtime: registering the connection, too, would be for the short time of its
/// dial.
fn poll_accept(
    listener: &AsyncFd<TcpListener>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    let accept = |listener: &AsyncFd<TcpListener>| -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, client) = acceptfrom_with(listener.get_ref(), flags)?;
        let client = client.ok_or(Errno::CONNABORTED)?.try_into()?;
        Ok((socket.into(), client))
    };
    loop {
        let mut guard = ready!(listener.poll_read_ready(cx))?;
        if let Ok(accepted) = guard.try_io(accept) {
            return Poll::Ready(accepted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_says_why_an_address_is_in_use_or_reserved() {
        let address = "[fd00::1]:443".parse().unwrap();
        let error = ForwarderError::listening(address, ErrorKind::AddrInUse.into());
        assert_eq!(
            error.to_string(),
            "listen on [fd00::1]:443: another program listens on port 443, on this address or on all addresses"
        );
        let error = ForwarderError::listening(address, Errno::ACCESS.into());
        assert_eq!(
            error.to_string(),
            "listen on [fd00::1]:443: port 443 is privileged; grant the daemon CAP_NET_BIND_SERVICE"
        );
        let error = ForwarderError::listening(address, Errno::PERM.into());
        assert_eq!(error.to_string(), "listen on [fd00::1]:443");
    }
}
