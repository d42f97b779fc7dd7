//! Takes connections from one listener, but only those that can be served.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use super::shared::Shared;
use super::stats::{Origin, Stats};

/// So long it rests when the kernel has no descriptor or memory for a connection, which waits in the backlog.
const REST: Duration = Duration::from_millis(50);

pub(super) struct Acceptor {
    listener: Rc<AsyncFd<TcpListener>>,
    origin: Origin,
    address: SocketAddr,
    shared: Rc<Shared>,
    pause: Option<Pause>,
    rest: Option<Pin<Box<Sleep>>>,
}

/// Counted while it lives.
struct Pause(Arc<Stats>);

impl Pause {
    fn new(stats: &Arc<Stats>) -> Self {
        stats.pause_begins();
        Self(Arc::clone(stats))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.pause_ends();
    }
}

impl Acceptor {
    pub(super) fn new(
        listener: Rc<AsyncFd<TcpListener>>,
        origin: Origin,
        address: SocketAddr,
        shared: Rc<Shared>,
    ) -> Self {
        Self { listener, origin, address, shared, pause: None, rest: None }
    }

    /// Connections may wait that cannot be taken now.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// The next connection, once there is a route for it and room.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(TcpStream, SocketAddr)> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            if self.shared.with_route(self.origin, &self.address, |_| ()).is_none() {
                self.shared.park(cx);
                return Poll::Pending;
            }
            if self.shared.table.is_full() {
                self.pause();
                self.shared.park(cx);
                return Poll::Pending;
            }
            match poll_accept(&self.listener, cx) {
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {
                    // That client has left, and is out of the backlog: the next.
                }
                Poll::Ready(Err(_)) => {
                    self.pause();
                    self.shared.pool.shrink();
                    self.rest = Some(Box::pin(sleep(REST)));
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
            self.pause = Some(Pause::new(&self.shared.stats));
        }
    }
}

/// The runtime watches the listener only: a connection would be watched by it for the short time of its dial.
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
