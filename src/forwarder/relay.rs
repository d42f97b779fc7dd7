//! Carries the bytes of one connection both ways until both have ended, or one side fails.
//!
//! Whoever was told an orderly end is closed, so that the kernel goes on to deliver what it holds; everyone else is
//! reset, lest a client take half an answer for a whole one.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::direction::{Direction, Wire};
use super::pipe::Pipe;
use super::shared::Shared;
use super::socket::Guarded;
use super::stats::Way;

/// One way, with its pipe while it has bytes to carry.
struct Half {
    direction: Direction,
    pipe: Option<Pipe>,
    way: Way,
}

/// The two ways and who they connect.
struct Relay<'a> {
    downstream: &'a TcpStream,
    upstream: &'a TcpStream,
    shared: &'a Shared,
    id: u64,
}

/// Carries on until it is over, and then ends both.
pub(super) async fn relay(mut downstream: Guarded, mut upstream: Guarded, shared: &Shared, id: u64) {
    let mut up = Half { direction: Direction::default(), pipe: None, way: Way::Up };
    let mut down = Half { direction: Direction::default(), pipe: None, way: Way::Down };
    {
        let relay = Relay { downstream: downstream.stream(), upstream: upstream.stream(), shared, id };
        // A direction that has ended, or that waits for its sink, does not look at its source: a reset would be
        // missed.
        let mut left = pin!(relay.downstream.ready(Interest::ERROR));
        let mut lost = pin!(relay.upstream.ready(Interest::ERROR));
        poll_fn(|cx| {
            let over = relay.poll(cx, &mut up, &mut down);
            let failed = left.as_mut().poll(cx).is_ready() || lost.as_mut().poll(cx).is_ready();
            if over.is_pending() && failed {
                relay.flush(cx, &mut up);
                relay.flush(cx, &mut down);
                return Poll::Ready(());
            }
            over
        })
        .await;
    }
    // An apiserver that closes before it has read a whole request resets us, after its answer: the client gets the
    // answer. The other way round nobody waits for what is lost.
    if down.direction.is_told() {
        downstream.end_in_order();
        if up.direction.is_told() {
            upstream.end_in_order();
        }
    }
}

impl Relay<'_> {
    fn poll(&self, cx: &mut Context<'_>, up: &mut Half, down: &mut Half) -> Poll<()> {
        let went_up = self.advance(cx, up);
        if let Poll::Ready(Err(_)) = went_up {
            self.flush(cx, down);
            return Poll::Ready(());
        }
        let went_down = self.advance(cx, down);
        if let Poll::Ready(Err(_)) = went_down {
            self.flush(cx, up);
            return Poll::Ready(());
        }
        if went_up.is_ready() && went_down.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn advance(&self, cx: &mut Context<'_>, half: &mut Half) -> Poll<io::Result<()>> {
        let (direction, mut link) = self.link(half);
        direction.poll(cx, &mut link)
    }

    fn flush(&self, cx: &mut Context<'_>, half: &mut Half) {
        let (direction, mut link) = self.link(half);
        direction.flush(cx, &mut link);
    }

    fn link<'h>(&'h self, half: &'h mut Half) -> (&'h mut Direction, Link<'h>) {
        let (source, sink) = match half.way {
            Way::Up => (self.downstream, self.upstream),
            Way::Down => (self.upstream, self.downstream),
        };
        let Half { direction, pipe, way } = half;
        (direction, Link { source, sink, pipe, way: *way, shared: self.shared, id: self.id })
    }
}

/// Two sockets and the pipe between them.
struct Link<'a> {
    source: &'a TcpStream,
    sink: &'a TcpStream,
    pipe: &'a mut Option<Pipe>,
    way: Way,
    shared: &'a Shared,
    id: u64,
}

impl Wire for Link<'_> {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.source.poll_read_ready(cx)
    }

    fn poll_sink(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_write_ready(cx)
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pipe.is_none() {
            *self.pipe = Some(ready!(self.shared.pool.poll_take(self.id, cx)));
        }
        Poll::Ready(())
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.source.try_io(Interest::READABLE, || pipe.fill(self.source))
    }

    fn splice_out(&mut self, held: usize) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let count = self.sink.try_io(Interest::WRITABLE, || pipe.drain(self.sink, held))?;
        self.shared.stats.count_bytes(self.way, count);
        Ok(count)
    }

    fn shut_sink(&mut self) -> io::Result<()> {
        SockRef::from(self.sink).shutdown(Shutdown::Write)
    }

    fn release_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.shared.pool.give(pipe);
        }
    }
}
