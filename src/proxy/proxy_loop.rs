//! Proxies all connections whose backend was found, in one task: an idle connection is two sockets in epoll and an entry
//! in a map.
//!
//! In: connections, backends that went down, epoll events. Out: bytes, moved by each connection's [`Relay`] in its turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::admission::ConnectionPermit;
use super::half_duplex::SocketEvents;
use super::socket::{self, Keepalive};
use super::splice::{PipePool, Relay, RelayStatus};
use super::stats::{OpenConnection, ResetCause, Stats};
use crate::model::types::Backend;

/// Between two attempts to make a pipe while the process has no descriptors.
const PIPE_RETRY: Duration = Duration::from_millis(50);
/// Events taken from epoll at once; connections have their turns in between.
const MAX_EVENTS: usize = 256;
/// A connection that is older gets TCP keepalive upstream. Short compared with the first keepalive probe.
const KEEPALIVE_DELAY: Duration = Duration::from_secs(1);

/// Backends that went down at the same time.
pub(super) type DownBackends = Arc<BTreeSet<Backend>>;

pub(super) enum LoopCommand {
    Add(Box<ProxiedConnection>),
    /// Resets the connections to these.
    Reset(DownBackends),
    /// Changes the TCP keepalive of the upstream connections to these.
    SetKeepalive(BTreeSet<Backend>, Keepalive),
}

/// A connection whose bytes are forwarded.
pub(super) struct ProxiedConnection {
    relay: Relay,
    backend: Backend,
    /// It is in the run queue.
    queued: bool,
    _open: OpenConnection,
    /// Dropped after the sockets were closed.
    _permit: ConnectionPermit,
}

impl ProxiedConnection {
    pub(super) fn new(
        downstream: TcpStream,
        upstream: TcpStream,
        (backend, open): (Backend, OpenConnection),
        permit: ConnectionPermit,
    ) -> Self {
        let relay = Relay::new(downstream, upstream);
        Self { relay, backend, queued: false, _open: open, _permit: permit }
    }

    fn enqueue(&mut self, id: u64, run_queue: &mut VecDeque<u64>) {
        if !std::mem::replace(&mut self.queued, true) {
            run_queue.push_back(id);
        }
    }
}

pub(super) struct ProxyLoop {
    stats: Arc<Stats>,
    pipes: Rc<PipePool>,
    poller: Poller,
    /// By ids that are never used again, since an event may come late.
    connections: HashMap<u64, Box<ProxiedConnection>>,
    next_id: u64,
    keepalive_delay: KeepaliveDelay,
    run_queue: VecDeque<u64>,
    /// Connections for which no pipe could be made, and when to try again.
    waiting_for_pipe: BTreeSet<u64>,
    pipe_retry_at: Instant,
}

impl ProxyLoop {
    pub(super) fn new(stats: Arc<Stats>, pipes: Rc<PipePool>) -> io::Result<Self> {
        Ok(Self {
            stats,
            pipes,
            poller: Poller::new()?,
            connections: HashMap::new(),
            next_id: 0,
            keepalive_delay: KeepaliveDelay::default(),
            run_queue: VecDeque::new(),
            waiting_for_pipe: BTreeSet::new(),
            pipe_retry_at: Instant::now(),
        })
    }

    /// Runs until no further command can come. An error says that the runtime ends.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<LoopCommand>) -> io::Result<()> {
        loop {
            if self.run_queue.is_empty() {
                tokio::select! {
                    command = commands.recv() => match command {
                        Some(command) => self.execute(command),
                        None => return Ok(()),
                    },
                    events = self.poller.wait() => events?,
                    () = sleep_until(self.pipe_retry_at), if !self.waiting_for_pipe.is_empty() => {}
                    () = self.keepalive_delay.any_due() => {}
                }
            } else {
                // Other tasks do not have to wait for connections that always have something to forward.
                tokio::task::yield_now().await;
                self.poller.wait().now_or_never().transpose()?;
            }
            while let Ok(command) = commands.try_recv() {
                self.execute(command);
            }
            self.process_events();
            self.enable_due_keepalive();
            for _ in 0..self.run_queue.len() {
                self.run_next();
            }
        }
    }

    fn execute(&mut self, command: LoopCommand) {
        match command {
            // If a socket cannot be registered, both are reset.
            LoopCommand::Add(connection) => drop(self.add(connection)),
            LoopCommand::Reset(backends) => {
                let ended =
                    self.connections.extract_if(|_, connection| backends.contains(&connection.backend));
                ended.for_each(|_| self.stats.count_reset(ResetCause::BackendDown));
            }
            LoopCommand::SetKeepalive(backends, keepalive) => {
                let concerned = self.connections.values().filter(|c| backends.contains(&c.backend));
                for connection in concerned {
                    let _ = socket::keep_alive(&SockRef::from(connection.relay.upstream()), keepalive);
                }
            }
        }
    }

    fn add(&mut self, mut connection: Box<ProxiedConnection>) -> io::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        self.poller.register(connection.relay.downstream(), id << 1)?;
        self.poller.register(connection.relay.upstream(), id << 1 | 1)?;
        // A client speaks first, and most likely did so while its backend was dialed.
        let both = SocketEvents { readable: true, writable: true, ..SocketEvents::default() };
        connection.relay.downstream_event(both);
        connection.relay.upstream_event(SocketEvents { writable: true, ..SocketEvents::default() });
        connection.enqueue(id, &mut self.run_queue);
        self.connections.insert(id, connection);
        self.keepalive_delay.push(id, Instant::now());
        Ok(())
    }

    fn enable_due_keepalive(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.keepalive_delay.pop_due(now) {
            if let Some(connection) = self.connections.get(&id) {
                // The listener could set it, so this rarely fails; health checks find a dead apiserver anyway.
                let upstream = SockRef::from(connection.relay.upstream());
                let _ = socket::keep_alive(&upstream, Keepalive::Usual);
            }
        }
    }

    /// Queues the connections for which something happened.
    fn process_events(&mut self) {
        for (token, events) in self.poller.drain() {
            let id = token >> 1;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match token & 1 {
                0 => connection.relay.downstream_event(events),
                _ => connection.relay.upstream_event(events),
            }
            connection.enqueue(id, &mut self.run_queue);
        }
        if !self.waiting_for_pipe.is_empty() && Instant::now() >= self.pipe_retry_at {
            for id in std::mem::take(&mut self.waiting_for_pipe) {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.enqueue(id, &mut self.run_queue);
                }
            }
        }
    }

    fn run_next(&mut self) {
        let Some(id) = self.run_queue.pop_front() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.queued = false;
        match connection.relay.advance(&self.pipes, &self.stats) {
            RelayStatus::WaitsForEvent => {}
            RelayStatus::Runnable => connection.enqueue(id, &mut self.run_queue),
            RelayStatus::WaitsForPipe => {
                if self.waiting_for_pipe.is_empty() {
                    self.pipe_retry_at = Instant::now() + PIPE_RETRY;
                }
                self.waiting_for_pipe.insert(id);
            }
            RelayStatus::Closed => drop(self.connections.remove(&id)),
        }
    }
}

/// An epoll instance for the sockets of proxied connections. The runtime could watch them, too, but at half a kilobyte for
/// each socket.
struct Poller {
    epoll: AsyncFd<OwnedFd>,
    events: Vec<Event>,
}

impl Poller {
    #[expect(
        deprecated,
        reason = "its successor asks for what this code must not promise; an OwnedFd keeps it anyway"
    )]
    fn new() -> io::Result<Self> {
        let epoll = AsyncFd::with_interest(epoll::create(CreateFlags::CLOEXEC)?, Interest::READABLE)?;
        Ok(Self { epoll, events: Vec::with_capacity(MAX_EVENTS) })
    }

    /// Reports events of this socket with this token until it is closed, edge-triggered. The first event reports the
    /// state at registration.
    fn register(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(self.epoll.get_ref(), socket, EventData::new_u64(token), edges)?)
    }

    /// Waits for events, and takes a batch of them; the previous batch must be drained. Cancel safe.
    async fn wait(&mut self) -> io::Result<()> {
        let mut guard = self.epoll.readable().await?;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(guard.get_inner(), spare_capacity(&mut self.events), Some(&now))?;
        // A batch that is not full had all events; the next event wakes this task again.
        if count < MAX_EVENTS {
            guard.clear_ready();
        }
        Ok(())
    }

    /// The events of the batch, with the tokens of their sockets.
    fn drain(&mut self) -> impl Iterator<Item = (u64, SocketEvents)> {
        self.events.drain(..).map(|event| (event.data.u64(), socket_events(event.flags)))
    }
}

fn socket_events(flags: EventFlags) -> SocketEvents {
    let over = EventFlags::HUP | EventFlags::ERR;
    SocketEvents {
        readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | over),
        writable: flags.intersects(EventFlags::OUT | over),
        closed: flags.intersects(EventFlags::RDHUP | over),
        failed: flags.contains(EventFlags::ERR),
    }
}

/// New connections, in the order in which they came.
///
/// Where connections come at a high rate they end at once. The four system calls that enable TCP keepalive are spent only
/// on those that stay.
#[derive(Default)]
struct KeepaliveDelay(VecDeque<(Instant, u64)>);

impl KeepaliveDelay {
    fn push(&mut self, id: u64, now: Instant) {
        self.0.push_back((now + KEEPALIVE_DELAY, id));
    }

    /// Waits until a connection is old enough; for ever if there is none. Cancel safe.
    async fn any_due(&self) {
        match self.0.front() {
            Some((at, _)) => sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    /// The next connection that is old enough.
    fn pop_due(&mut self, now: Instant) -> Option<u64> {
        let &(at, id) = self.0.front()?;
        (at <= now).then(|| {
            self.0.pop_front();
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keepalive_is_due_once_for_each_connection_after_the_delay_and_in_order() {
        let mut delay = KeepaliveDelay::default();
        let begin = Instant::now();
        delay.push(1, begin);
        delay.push(2, begin + KEEPALIVE_DELAY / 2);
        assert_eq!(delay.pop_due(begin), None);
        delay.any_due().await;
        assert_eq!(Instant::now(), begin + KEEPALIVE_DELAY);
        assert_eq!(delay.pop_due(Instant::now()), Some(1));
        assert_eq!(delay.pop_due(Instant::now()), None);
        assert_eq!(delay.pop_due(begin + 2 * KEEPALIVE_DELAY), Some(2));
        assert_eq!(delay.pop_due(begin + 2 * KEEPALIVE_DELAY), None);
        let never = tokio::time::timeout(Duration::from_secs(3600), delay.any_due());
        assert!(never.await.is_err(), "none is left to wait for");
    }
}
