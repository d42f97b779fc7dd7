//! Carries the bytes of one connection both ways until both have ended, or one side fails.
//!
//! Whoever was told an orderly end is closed, so that the kernel goes on to deliver what it holds; everyone else is
//! reset.

use std::io;
use std::net::{Shutdown, TcpStream};

use super::direction::{Direction, Stop, Wire};
use super::pipe::Pool;
use super::readiness::{Events, Ready};
use super::socket::end_in_order;
use super::stats::{Stats, Way};
use super::vessel::Vessel;

/// The two sockets, and how far the bytes are. An idle connection is not much more than this.
pub(super) struct Relay {
    downstream: Side,
    upstream: Side,
    up: Half,
    down: Half,
}

struct Side {
    stream: TcpStream,
    ready: Ready,
}

/// One way, with its vessel while it has bytes to carry.
#[derive(Default)]
struct Half {
    direction: Direction,
    vessel: Vessel,
}

/// What a connection needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event.
    Event,
    /// A pipe: to be tried again in a while.
    Pipe,
    /// Its next turn.
    Turn,
    /// Nothing: it is over, and to be dropped.
    Over,
}

impl Relay {
    pub(super) fn new(downstream: TcpStream, upstream: TcpStream) -> Self {
        let side = |stream| Side { stream, ready: Ready::default() };
        let (downstream, upstream) = (side(downstream), side(upstream));
        Self { downstream, upstream, up: Half::default(), down: Half::default() }
    }

    pub(super) fn downstream(&self) -> &TcpStream {
        &self.downstream.stream
    }

    pub(super) fn upstream(&self) -> &TcpStream {
        &self.upstream.stream
    }

    /// Something happened on the side of the client.
    pub(super) fn hear_downstream(&mut self, events: Events) {
        self.downstream.ready.hear(events);
    }

    /// Something happened on the side of the apiserver.
    pub(super) fn hear_upstream(&mut self, events: Events) {
        self.upstream.ready.hear(events);
    }

    /// Goes on as far as it can.
    pub(super) fn advance(&mut self, pool: &Pool, stats: &Stats) -> Next {
        // A direction that has ended, or that waits for its sink, does not look at its source.
        let failed = self.downstream.ready.has_failed() || self.upstream.ready.has_failed();
        let up = if failed { None } else { self.step(Way::Up, pool, stats) };
        let down = if up.is_none() { None } else { self.step(Way::Down, pool, stats) };
        match (up, down) {
            (Some(Stop::Ended), Some(Stop::Ended)) => {}
            (Some(Stop::Yields), Some(_)) | (Some(_), Some(Stop::Yields)) => return Next::Turn,
            (Some(Stop::Starves), Some(_)) | (Some(_), Some(Stop::Starves)) => return Next::Pipe,
            (Some(_), Some(_)) => return Next::Event,
            _ => self.flush(pool, stats),
        }
        self.end();
        Next::Over
    }

    /// None: one side failed.
    fn step(&mut self, way: Way, pool: &Pool, stats: &Stats) -> Option<Stop> {
        let (direction, mut link) = self.link(way, pool, stats);
        direction.advance(&mut link).ok()
    }

    fn flush(&mut self, pool: &Pool, stats: &Stats) {
        for way in Way::ALL {
            let (direction, mut link) = self.link(way, pool, stats);
            direction.flush(&mut link);
        }
    }

    /// An apiserver that closes before it has read a whole request resets us, after its answer: the client gets the
    /// answer. The other way round nobody waits for what is lost.
    fn end(&self) {
        if self.down.direction.is_told() {
            end_in_order(&self.downstream.stream);
            if self.up.direction.is_told() {
                end_in_order(&self.upstream.stream);
            }
        }
    }

    fn link<'a>(&'a mut self, way: Way, pool: &'a Pool, stats: &'a Stats) -> (&'a mut Direction, Link<'a>) {
        let Self { downstream, upstream, up, down } = self;
        let (source, sink, Half { direction, vessel }) = match way {
            Way::Up => (downstream, upstream, up),
            Way::Down => (upstream, downstream, down),
        };
        (direction, Link { source, sink, vessel, way, pool, stats })
    }
}

/// Two sockets and what carries the bytes between them.
struct Link<'a> {
    source: &'a mut Side,
    sink: &'a mut Side,
    vessel: &'a mut Vessel,
    way: Way,
    pool: &'a Pool,
    stats: &'a Stats,
}

impl Wire for Link<'_> {
    fn is_source_ready(&self) -> bool {
        self.source.ready.is_readable()
    }

    fn is_sink_ready(&self) -> bool {
        self.vessel.is_ahead() || self.sink.ready.is_writable()
    }

    fn take_pipe(&mut self) -> bool {
        // Where the sink waits, what is read waits in a pipe.
        self.vessel.prepare(self.pool, self.sink.ready.is_writable())
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        let Self { source, sink, vessel, pool, .. } = self;
        if !vessel.copies() {
            let filled = vessel.fill(&source.stream);
            source.ready.learn_read(&filled);
            return filled;
        }
        let (source, sink) = ((&source.stream, &mut source.ready), (&sink.stream, &mut sink.ready));
        vessel.copy(source, sink, &mut pool.buffer())
    }

    fn splice_out(&mut self, held: usize) -> io::Result<usize> {
        let Self { sink, vessel, .. } = self;
        let count = match vessel.take_ahead() {
            Some(count) => count,
            None => {
                let drained = vessel.drain(&sink.stream, held);
                sink.ready.learn_write(&drained);
                drained?
            }
        };
        self.stats.count_bytes(self.way, count);
        Ok(count)
    }

    fn shut_sink(&mut self) -> io::Result<()> {
        self.sink.stream.shutdown(Shutdown::Write)
    }

    fn release_pipe(&mut self) {
        self.vessel.release(self.pool);
    }
}
