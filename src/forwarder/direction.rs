//! One direction of a connection: bytes go from a source through a pipe to a sink, and its end follows them.
//!
//! The pipe is filled only when it is empty. So a source that would block is always one without bytes, never one in
//! front of a full pipe, and readiness can be trusted; and what one direction holds is bounded by one pipe.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

/// So often it moves bytes before others have their turn: 16 pipes of 256 KiB are about a millisecond.
const ROUNDS: usize = 32;

/// What moves the bytes.
pub(super) trait Wire {
    /// Waits until the source has bytes or has ended.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until the sink takes bytes.
    fn poll_sink(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until there is a pipe.
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Fills the empty pipe; 0: the source has ended. `WouldBlock` makes `poll_source` wait.
    fn splice_in(&mut self) -> io::Result<usize>;
    /// Empties the pipe, which holds so many bytes. `WouldBlock` makes `poll_sink` wait.
    fn splice_out(&mut self, held: usize) -> io::Result<usize>;
    /// Tells the sink that no more comes.
    fn shut_sink(&mut self) -> io::Result<()>;
    /// Gives the empty pipe back.
    fn release_pipe(&mut self);
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Direction {
    held: usize,
    phase: Phase,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Flowing,
    /// The source has ended; the sink does not know yet.
    Ended,
    /// The sink knows.
    Told,
    /// The sink must not be told: the source may have ended because it was reset.
    Doomed,
}

impl Direction {
    /// Goes on as far as it can. Ready when the sink was told of the end, or with the error of either side.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, wire: &mut impl Wire) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            let moved = match self.phase {
                _ if self.held > 0 => {
                    ready!(wire.poll_sink(cx))?;
                    wire.splice_out(self.held).and_then(|count| self.emptied(count))
                }
                Phase::Flowing | Phase::Doomed => {
                    let Poll::Ready(source) = wire.poll_source(cx) else {
                        wire.release_pipe();
                        return Poll::Pending;
                    };
                    source?;
                    ready!(wire.poll_pipe(cx));
                    match wire.splice_in() {
                        Ok(0) if self.phase == Phase::Doomed => return Poll::Pending,
                        filled => filled.map(|count| self.filled(count)),
                    }
                }
                Phase::Ended => {
                    wire.release_pipe();
                    wire.shut_sink()?;
                    self.phase = Phase::Told;
                    return Poll::Ready(Ok(()));
                }
                Phase::Told => return Poll::Ready(Ok(())),
            };
            match moved.map_err(|error| (error.kind(), error)) {
                Ok(()) | Err((ErrorKind::WouldBlock | ErrorKind::Interrupted, _)) => {}
                Err((_, error)) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The other direction failed: brings to the sink what can be brought without waiting, but no end.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, wire: &mut impl Wire) {
        if self.phase != Phase::Told {
            self.phase = Phase::Doomed;
            // All that matters has happened on the way; the sockets are reset next.
            let _ = self.poll(cx, wire);
        }
    }

    /// Whether the sink was told of the end, and so has everything.
    pub(super) fn is_told(&self) -> bool {
        self.phase == Phase::Told
    }

    fn filled(&mut self, count: usize) {
        self.held = count;
        if count == 0 {
            self.phase = Phase::Ended;
        }
    }

    fn emptied(&mut self, count: usize) -> io::Result<()> {
        // No kernel does that; were it to, this would go round for ever.
        if count == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        self.held = self.held.saturating_sub(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
