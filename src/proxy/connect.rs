//! From an accepted connection to its backend: the routes of the moment, and the dials of one client.
//!
//! In: accepted connections, new routes. Out: connections whose backend was found, given to the proxy loop; dials that
//! failed, which are counted and reported to the health checks. A connection without a backend is reset.
//!
//! Which backend is dialed when is decided in [`happy_eyeballs`](super::happy_eyeballs); here are the sockets.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{SockRef, Socket};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::admission::{ConnectionPermit, ConnectionTable};
use super::happy_eyeballs::{ATTEMPT_TIMEOUT, HappyEyeballs, Step, backend_order};
use super::proxy_loop::{DownBackends, LoopCommand, ProxiedConnection};
use super::socket::{self, Keepalive};
use super::splice::PipePool;
use super::stats::{DialFailure, Origin, ResetCause, Stats};
use crate::model::proxy_routes::{ProxyRoute, ProxyRoutes};
use crate::model::types::Backend;

/// So many sets of backends that went down may be on their way to a dial.
const DOWN_QUEUE: usize = 16;

/// What listeners and dials of the proxy's thread share.
pub(super) struct Shared {
    pub(super) stats: Arc<Stats>,
    pub(super) connections: Rc<ConnectionTable>,
    pub(super) pipes: Rc<PipePool>,
    went_down: broadcast::Sender<DownBackends>,
    dial_failures: UnboundedSender<Backend>,
    proxy_loop: UnboundedSender<LoopCommand>,
    routes: RefCell<Option<Arc<ProxyRoutes>>>,
}

impl Shared {
    /// Also returns the commands for the proxy loop.
    pub(super) fn new(
        stats: Arc<Stats>,
        connections: ConnectionTable,
        dial_failures: UnboundedSender<Backend>,
    ) -> (Self, UnboundedReceiver<LoopCommand>) {
        let (proxy_loop, commands) = unbounded_channel();
        let shared = Self {
            stats,
            connections: Rc::new(connections),
            pipes: Rc::default(),
            went_down: broadcast::channel(DOWN_QUEUE).0,
            dial_failures,
            proxy_loop,
            routes: RefCell::default(),
        };
        (shared, commands)
    }

    /// Replaces the routes, and resets connections to backends that went down with them.
    pub(super) fn route(&self, routes: Arc<ProxyRoutes>) {
        let before = self.routes.replace(Some(Arc::clone(&routes)));
        let suspects = |routes: &Option<Arc<ProxyRoutes>>| {
            routes.as_ref().map(|routes| routes.suspects.clone()).unwrap_or_default()
        };
        let (suspect_before, suspect_now) = (suspects(&before), &routes.suspects);
        for (changed, keepalive) in [
            (suspect_now.difference(&suspect_before).copied().collect(), Keepalive::EachSecond),
            (suspect_before.difference(suspect_now).copied().collect(), Keepalive::Usual),
        ] as [(BTreeSet<Backend>, Keepalive); 2]
        {
            if !changed.is_empty() {
                let _ = self.proxy_loop.send(LoopCommand::SetKeepalive(changed, keepalive));
            }
        }
        let known = |backend: &Backend| before.as_ref().is_some_and(|before| before.ending.contains(backend));
        let down: BTreeSet<Backend> = routes.ending.iter().copied().filter(|b| !known(b)).collect();
        if !down.is_empty() {
            let down = Arc::new(down);
            // An error says that there is no connection, or no dial in flight.
            let _ = self.proxy_loop.send(LoopCommand::Reset(Arc::clone(&down)));
            let _ = self.went_down.send(down);
        }
        self.stats.retain_backends(|backend| routes.contains(*backend));
        self.connections.wake_listeners();
    }

    /// Reads the route of a listener, if it has one.
    pub(super) fn with_route<T>(
        &self,
        origin: Origin,
        address: &SocketAddr,
        read: impl FnOnce(&ProxyRoute) -> T,
    ) -> Option<T> {
        let routes = self.routes.borrow();
        let routes = routes.as_ref()?;
        match origin {
            Origin::Vip => routes.vips.get(address).map(read),
            Origin::Listen => Some(read(&routes.local)),
        }
    }

    fn proxy(&self, connection: ProxiedConnection) {
        // An error says that the thread ends; then the connection ends, too.
        let _ = self.proxy_loop.send(LoopCommand::Add(Box::new(connection)));
    }
}

/// Starts to serve an accepted connection; one that is refused is reset by being dropped.
pub(super) fn start(
    shared: &Rc<Shared>,
    origin: Origin,
    local: &SocketAddr,
    downstream: TcpStream,
    client: SocketAddr,
) {
    shared.stats.count_accepted(origin);
    if origin == Origin::Vip {
        shared.stats.expected_peers().accepted(client);
    }
    let Some(permit) = ConnectionPermit::acquire(&shared.connections, origin, client.ip()) else {
        return shared.stats.count_reset(ResetCause::ClientLimit);
    };
    // If the route was removed in this very moment, there is nothing to dial.
    let order = shared.with_route(origin, local, |route| backend_order(route, client.ip(), rand::random()));
    tokio::task::spawn_local(find_backend(Rc::clone(shared), permit, downstream, order.unwrap_or_default()));
}

/// The task ends when the backend was found, since an idle connection must be small.
async fn find_backend(
    shared: Rc<Shared>,
    permit: ConnectionPermit,
    downstream: TcpStream,
    order: Vec<Backend>,
) {
    match dial(&shared, order, &downstream).await {
        Ok((backend, upstream)) => {
            let counted = (backend, shared.stats.count_forwarded(backend));
            shared.proxy(ProxiedConnection::new(downstream, upstream, counted, permit));
        }
        Err(NoUpstream::NoBackend) => shared.stats.count_reset(ResetCause::NoBackend),
        Err(NoUpstream::ClientLeft) => {}
    }
}

/// Why a client has no upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoUpstream {
    /// No backend could be reached in time.
    NoBackend,
    ClientLeft,
}

/// The backend that connected first.
async fn dial(
    shared: &Shared,
    order: Vec<Backend>,
    downstream: &TcpStream,
) -> Result<(Backend, TcpStream), NoUpstream> {
    let mut went_down = shared.went_down.subscribe();
    let schedule = HappyEyeballs::new(order, Instant::now().into_std());
    let mut dial = Dial { shared, schedule, in_flight: Vec::new() };
    loop {
        let until = dial.start_due().ok_or(NoUpstream::NoBackend)?;
        // Events before timers: after this process was suspended, all timers have expired.
        tokio::select! {
            biased;
            down = went_down.recv() => dial.fail_down(down),
            winner = poll_fn(|cx| dial.poll_in_flight(cx)) => {
                if let Some(winner) = winner {
                    return Ok(winner);
                }
            }
            () = sleep_until(until) => {}
        }
        // No further dial for a client that has left. The first dial usually succeeds, and needs no check.
        if is_reset(downstream) {
            return Err(NoUpstream::ClientLeft);
        }
    }
}

/// The dials for one client.
struct Dial<'a> {
    shared: &'a Shared,
    schedule: HappyEyeballs,
    in_flight: Vec<ConnectAttempt>,
}

impl Dial<'_> {
    /// Until when nothing is due; `None`: there is nothing left to dial.
    fn start_due(&mut self) -> Option<Instant> {
        loop {
            let now = Instant::now();
            match self.schedule.step(now.into_std()) {
                Step::Wait(until) => return Some(Instant::from_std(until)),
                Step::GiveUp => return None,
                Step::Cancel(backend) => {
                    self.in_flight.retain(|attempt| attempt.backend() != backend);
                    self.report(backend, DialFailure::TimedOut);
                }
                Step::Dial { backend, hedge } => {
                    if hedge {
                        self.shared.stats.count_hedged();
                    }
                    match ConnectAttempt::start(backend) {
                        Ok(attempt) => self.in_flight.push(attempt),
                        Err(reason) => self.failed(backend, reason),
                    }
                }
            }
        }
    }

    /// Ready when an attempt has ended, with its connection if there is one.
    fn poll_in_flight(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Backend, TcpStream)>> {
        for at in 0..self.in_flight.len() {
            let Poll::Ready(result) = self.in_flight[at].poll(cx) else { continue };
            let attempt = self.in_flight.swap_remove(at);
            let backend = attempt.backend();
            let connected = result.and_then(|()| attempt.into_stream().map_err(|_| DialFailure::Other));
            return Poll::Ready(match connected {
                Ok(stream) => Some((backend, stream)),
                Err(reason) => {
                    self.failed(backend, reason);
                    None
                }
            });
        }
        Poll::Pending
    }

    fn fail_down(&mut self, down: Result<DownBackends, RecvError>) {
        // If some of the sets were missed, no attempt in flight is trusted.
        let is_down = |backend: &Backend| down.as_ref().map_or(true, |down| down.contains(backend));
        let (failed, in_flight) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|a| is_down(&a.backend()));
        self.in_flight = in_flight;
        for attempt in failed as Vec<ConnectAttempt> {
            self.failed(attempt.backend(), DialFailure::BackendDown);
        }
    }

    fn failed(&mut self, backend: Backend, reason: DialFailure) {
        let now = Instant::now().into_std();
        match reason {
            DialFailure::Local => self.schedule.failed_locally(backend, now),
            DialFailure::Unreachable | DialFailure::TimedOut => self.schedule.unreachable(backend, now),
            _ => self.schedule.failed(backend, now),
        }
        self.report(backend, reason);
    }

    fn report(&self, backend: Backend, reason: DialFailure) {
        self.shared.stats.count_dial_failure(reason);
        // The health checks, which get these reports, know already that a backend is down.
        if !matches!(reason, DialFailure::Local | DialFailure::BackendDown) {
            // The receiver is gone when the daemon is about to end.
            let _ = self.shared.dial_failures.send(backend);
        }
    }
}

fn is_reset(client: &TcpStream) -> bool {
    !socket::state(client, PollFlags::empty()).is_empty()
}

/// A dial in flight. Dropping it cancels it.
struct ConnectAttempt {
    backend: Backend,
    state: ConnectState,
}

enum ConnectState {
    /// Registered with the runtime.
    Connecting(tokio::net::TcpStream),
    /// An apiserver of this node answers before `connect` returns, and one nearby soon after: registering such a socket
    /// would cost more than the dial.
    Connected(net::TcpStream),
}

impl ConnectAttempt {
    fn start(backend: Backend) -> Result<Self, DialFailure> {
        let state = connect(backend).map_err(|error| classify(&error))?;
        Ok(Self { backend, state })
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether it connected. Must not be polled again after that.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), DialFailure>> {
        let ConnectState::Connecting(stream) = &self.state else { return Poll::Ready(Ok(())) };
        let connected = ready!(stream.poll_write_ready(cx)).and_then(|()| match stream.take_error()? {
            None => Ok(()),
            Some(error) => Err(error),
        });
        Poll::Ready(connected.map_err(|error| classify(&error)))
    }

    /// The stream of an attempt that connected.
    fn into_stream(self) -> io::Result<net::TcpStream> {
        match self.state {
            ConnectState::Connecting(stream) => {
                // From here on keepalive finds a silent peer. With this timeout a live peer that reads nothing for a
                // while, its window closed, would be reset.
                SockRef::from(&stream).set_tcp_user_timeout(None)?;
                stream.into_std()
            }
            ConnectState::Connected(stream) => Ok(stream),
        }
    }
}

fn connect(backend: SocketAddr) -> io::Result<ConnectState> {
    let socket = socket::new(backend)?;
    socket::set_options(&SockRef::from(&socket))?;
    match socket.connect(&backend.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ if is_connected(&socket) => return Ok(ConnectState::Connected(socket.into())),
        _ => {}
    }
    socket.set_tcp_user_timeout(Some(ATTEMPT_TIMEOUT))?;
    Ok(ConnectState::Connecting(tokio::net::TcpStream::from_std(socket.into())?))
}

/// Whether it is connected already, without an error.
fn is_connected(socket: &Socket) -> bool {
    let state = socket::state(socket, PollFlags::OUT);
    state.contains(PollFlags::OUT) && !state.intersects(PollFlags::ERR | PollFlags::HUP)
}

fn classify(error: &io::Error) -> DialFailure {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS].map(Errno::raw_os_error);
    match error.kind() {
        ErrorKind::ConnectionRefused => DialFailure::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => DialFailure::Unreachable,
        ErrorKind::TimedOut => DialFailure::TimedOut,
        ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse | ErrorKind::OutOfMemory => DialFailure::Local,
        _ if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) => DialFailure::Local,
        _ => DialFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausted_local_resource_is_a_local_failure() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert_eq!(classify(&errno.into()), DialFailure::Local, "{errno}");
        }
        assert_eq!(classify(&Errno::CONNREFUSED.into()), DialFailure::Refused);
        assert_eq!(classify(&Errno::HOSTUNREACH.into()), DialFailure::Unreachable);
        assert_eq!(classify(&Errno::CONNRESET.into()), DialFailure::Other);
    }

    #[tokio::test]
    async fn tcp_user_timeout_is_set_only_while_connecting() {
        // The backlog has room for one, so that further SYNs are not answered.
        let full = socket::new("127.0.0.1:0".parse().unwrap()).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let attempts: Vec<_> = (0..4).map(|_| ConnectAttempt::start(address).unwrap()).collect();
        let timeout = |attempt: &ConnectAttempt| match &attempt.state {
            ConnectState::Connecting(stream) => SockRef::from(stream).tcp_user_timeout().unwrap(),
            ConnectState::Connected(stream) => SockRef::from(stream).tcp_user_timeout().unwrap(),
        };
        let of = |attempt: &ConnectAttempt| timeout(attempt).unwrap_or_default();
        assert_eq!(of(attempts.last().unwrap()), ATTEMPT_TIMEOUT, "in flight");
        assert!(of(&attempts[0]).is_zero(), "connected at once");
        let listener = net::TcpListener::from(full);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let serving = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        for attempt in attempts {
            std::future::poll_fn(|cx| attempt.poll(cx)).await.unwrap();
            let stream = attempt.into_stream().unwrap();
            assert!(SockRef::from(&stream).tcp_user_timeout().unwrap().unwrap_or_default().is_zero());
        }
        serving.abort();
    }
}
