//! Moves the bytes of one proxied connection between its two sockets, within the kernel where that is cheaper.
//!
//! In: events of the two sockets, turns of the proxy loop. Out: bytes, and what the connection needs next. Short messages
//! are copied through a buffer, longer ones are spliced through a pipe. Which call comes next, [`HalfDuplex`] decides.
//!
//! A side that got an orderly end is closed, so that the kernel goes on to deliver what it holds; any other is reset.

use std::cell::{RefCell, RefMut};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::half_duplex::{HalfDuplex, Progress, Readiness, SocketEvents, SpliceIo};
use super::socket::close_gracefully;
use super::stats::{Direction, Stats};

/// Larger pipes are no faster: they do not fit in the processor's cache.
const PIPE_SIZE: usize = 256 << 10;
/// Idle pipes that are kept for bursts. Each connection that is busy at the moment has its own pipes on top.
const MAX_IDLE_PIPES: usize = 64;
/// What is shorter is copied: that takes two system calls, and a short read says that nothing is left. Splicing takes
/// three, each of them more expensive, and the third finds nothing.
const COPY_MAX: usize = 16 << 10;

/// The two sockets of a connection, and how far the bytes are. An idle connection is not much more than this.
pub(super) struct Relay {
    downstream: PeerSocket,
    upstream: PeerSocket,
    to_upstream: HalfRelay,
    to_downstream: HalfRelay,
}

struct PeerSocket {
    stream: TcpStream,
    ready: Readiness,
}

/// One direction, with its buffer.
#[derive(Default)]
struct HalfRelay {
    state: HalfDuplex,
    buffer: SpliceBuffer,
}

/// What a connection needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayStatus {
    WaitsForEvent,
    /// No pipe could be made: to be tried again in a while.
    WaitsForPipe,
    /// It can go on in its next turn.
    Runnable,
    /// It has ended, and is to be dropped.
    Closed,
}

impl Relay {
    pub(super) fn new(downstream: TcpStream, upstream: TcpStream) -> Self {
        let socket = |stream| PeerSocket { stream, ready: Readiness::default() };
        let (downstream, upstream) = (socket(downstream), socket(upstream));
        Self { downstream, upstream, to_upstream: HalfRelay::default(), to_downstream: HalfRelay::default() }
    }

    pub(super) fn downstream(&self) -> &TcpStream {
        &self.downstream.stream
    }

    pub(super) fn upstream(&self) -> &TcpStream {
        &self.upstream.stream
    }

    pub(super) fn downstream_event(&mut self, events: SocketEvents) {
        self.downstream.ready.on_event(events);
    }

    pub(super) fn upstream_event(&mut self, events: SocketEvents) {
        self.upstream.ready.on_event(events);
    }

    /// Goes on as far as it can.
    pub(super) fn advance(&mut self, pipes: &PipePool, stats: &Stats) -> RelayStatus {
        // A direction that has ended, or that waits for its sink, does not look at its source.
        let failed = self.downstream.ready.has_failed() || self.upstream.ready.has_failed();
        let up = if failed { None } else { self.step(Direction::ToUpstream, pipes, stats) };
        let down = if up.is_none() { None } else { self.step(Direction::ToDownstream, pipes, stats) };
        match (up, down) {
            (Some(Progress::Finished), Some(Progress::Finished)) => {}
            (Some(Progress::Yielded), Some(_)) | (Some(_), Some(Progress::Yielded)) => {
                return RelayStatus::Runnable;
            }
            (Some(Progress::NoPipe), Some(_)) | (Some(_), Some(Progress::NoPipe)) => {
                return RelayStatus::WaitsForPipe;
            }
            (Some(_), Some(_)) => return RelayStatus::WaitsForEvent,
            _ => self.flush(pipes, stats),
        }
        self.close();
        RelayStatus::Closed
    }

    /// None: one side failed.
    fn step(&mut self, direction: Direction, pipes: &PipePool, stats: &Stats) -> Option<Progress> {
        let (state, mut relay_io) = self.half(direction, pipes, stats);
        state.advance(&mut relay_io).ok()
    }

    fn flush(&mut self, pipes: &PipePool, stats: &Stats) {
        for direction in Direction::ALL {
            let (state, mut relay_io) = self.half(direction, pipes, stats);
            state.flush(&mut relay_io);
        }
    }

    /// An apiserver that closes before it has read a whole request sends its answer and then a reset: the client gets the
    /// answer. The other way round nobody waits for what is lost.
    fn close(&self) {
        if self.to_downstream.state.is_finished() {
            close_gracefully(&self.downstream.stream);
            if self.to_upstream.state.is_finished() {
                close_gracefully(&self.upstream.stream);
            }
        }
    }

    fn half<'a>(
        &'a mut self,
        direction: Direction,
        pipes: &'a PipePool,
        stats: &'a Stats,
    ) -> (&'a mut HalfDuplex, RelayIo<'a>) {
        let Self { downstream, upstream, to_upstream, to_downstream } = self;
        let (source, sink, HalfRelay { state, buffer }) = match direction {
            Direction::ToUpstream => (downstream, upstream, to_upstream),
            Direction::ToDownstream => (upstream, downstream, to_downstream),
        };
        (state, RelayIo { source, sink, buffer, direction, pipes, stats })
    }
}

/// The two sockets of one direction, and the buffer between them.
struct RelayIo<'a> {
    source: &'a mut PeerSocket,
    sink: &'a mut PeerSocket,
    buffer: &'a mut SpliceBuffer,
    direction: Direction,
    pipes: &'a PipePool,
    stats: &'a Stats,
}

impl SpliceIo for RelayIo<'_> {
    fn is_source_ready(&self) -> bool {
        self.source.ready.is_readable()
    }

    fn is_sink_ready(&self) -> bool {
        self.buffer.has_uncounted() || self.sink.ready.is_writable()
    }

    fn acquire_pipe(&mut self) -> bool {
        // If the sink is not writable, what is read waits in a pipe.
        self.buffer.prepare(self.pipes, self.sink.ready.is_writable())
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        let Self { source, sink, buffer, pipes, .. } = self;
        if !buffer.will_copy() {
            let filled = buffer.fill(&source.stream);
            source.ready.on_read(&filled);
            return filled;
        }
        let (source, sink) = ((&source.stream, &mut source.ready), (&sink.stream, &mut sink.ready));
        buffer.copy(source, sink, &mut pipes.copy_buffer())
    }

    fn splice_out(&mut self, held: usize) -> io::Result<usize> {
        let Self { sink, buffer, .. } = self;
        let count = match buffer.take_uncounted() {
            Some(count) => count,
            None => {
                let drained = buffer.drain(&sink.stream, held);
                sink.ready.on_write(&drained);
                drained?
            }
        };
        self.stats.count_bytes(self.direction, count);
        Ok(count)
    }

    fn shutdown_sink(&mut self) -> io::Result<()> {
        self.sink.stream.shutdown(Shutdown::Write)
    }

    fn release_pipe(&mut self) {
        self.buffer.release(self.pipes);
    }
}

/// The bytes of one direction that left the source and did not reach the sink. A copy is written as soon as it was read;
/// what the sink did not take of it is kept here until it does.
#[derive(Default)]
struct SpliceBuffer {
    pipe: Option<Pipe>,
    /// The last read filled the copy buffer: until less comes at once, bytes go through the pipe.
    bulk: bool,
    /// So much of the last copy has been written and not been counted yet.
    uncounted: usize,
    /// The part of the last copy that the sink did not take.
    unsent: Vec<u8>,
}

impl SpliceBuffer {
    /// Makes sure that bytes can be moved. `false`: that needs a pipe, and none can be had.
    fn prepare(&mut self, pipes: &PipePool, may_copy: bool) -> bool {
        if self.pipe.is_none() && (self.bulk || !may_copy) {
            self.pipe = pipes.take();
            return self.pipe.is_some();
        }
        true
    }

    /// Whether what comes next is to be copied.
    fn will_copy(&self) -> bool {
        self.pipe.is_none()
    }

    /// Fills the empty pipe; 0: the source has ended.
    fn fill(&mut self, source: &TcpStream) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let filled = pipe.fill(source);
        self.bulk &= !matches!(filled, Ok(count) if count < COPY_MAX);
        filled
    }

    /// Copies what is short from the source to the sink, as much of it as that takes at once; 0: the source has ended. An
    /// error is the source's, or one of the sink that is final.
    fn copy(
        &mut self,
        (mut source, readable): (impl Read, &mut Readiness),
        (mut sink, writable): (impl Write, &mut Readiness),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let read = source.read(buffer);
        readable.on_read(&read);
        let count = read?;
        if count == 0 {
            return Ok(0);
        }
        self.bulk = count == buffer.len();
        if !self.bulk {
            readable.on_short_read();
        }
        let written = sink.write(&buffer[..count]);
        writable.on_write(&written);
        self.uncounted = match written {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.unsent.extend_from_slice(&buffer[self.uncounted..count]);
        Ok(count)
    }

    /// Whether something was written that is not counted yet.
    fn has_uncounted(&self) -> bool {
        self.uncounted > 0
    }

    /// How much, once.
    fn take_uncounted(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.uncounted)).filter(|count| *count > 0)
    }

    /// Writes some of the bytes that are held to the sink.
    fn drain(&mut self, sink: &TcpStream, held: usize) -> io::Result<usize> {
        if !self.unsent.is_empty() {
            return self.drain_unsent(sink);
        }
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        pipe.drain(sink, held)
    }

    fn drain_unsent(&mut self, mut sink: impl Write) -> io::Result<usize> {
        let count = sink.write(&self.unsent)?;
        self.unsent.drain(..count);
        Ok(count)
    }

    /// Nothing is held: gives the pipe back, and frees the memory of what the sink did not take.
    fn release(&mut self, pipes: &PipePool) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give(pipe);
        }
        self.unsent = Vec::new();
    }
}

/// Idle pipes, all empty, and one copy buffer for the connection whose turn it is.
pub(super) struct PipePool {
    idle: RefCell<Vec<Pipe>>,
    copy_buffer: RefCell<Box<[u8]>>,
}

impl Default for PipePool {
    fn default() -> Self {
        Self { idle: RefCell::default(), copy_buffer: RefCell::new(vec![0; COPY_MAX].into_boxed_slice()) }
    }
}

impl PipePool {
    /// None: the process has no descriptors left.
    fn take(&self) -> Option<Pipe> {
        let idle = self.idle.borrow_mut().pop();
        idle.or_else(|| Pipe::new().ok())
    }

    /// Takes an empty pipe back.
    fn give(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE_PIPES {
            idle.push(pipe);
        }
    }

    /// Closes all idle pipes: their descriptors are needed.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Its content does not outlast a turn.
    fn copy_buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.copy_buffer.borrow_mut()
    }
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused beyond what one user may have (fs.pipe-user-pages-soft): then the pipe is smaller, and slower.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(Self { read, write })
    }

    /// Takes from a socket what is there, as far as it fits; 0: the end.
    fn fill(&self, source: impl AsFd) -> io::Result<usize> {
        Ok(splice(source, None, &self.write, None, PIPE_SIZE, SpliceFlags::NONBLOCK)?)
    }

    /// Gives a socket some of the bytes that are held. SPLICE_F_MORE would let the kernel wait for more of them.
    fn drain(&self, sink: impl AsFd, held: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, sink, None, held, SpliceFlags::NONBLOCK)?)
    }
}

#[cfg(test)]
mod tests;
