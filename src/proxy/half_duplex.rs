//! One direction of a connection, and what is known of a socket from edge-triggered events. Pure.
//!
//! In: what the calls of [`SpliceIo`] return, events of sockets. Out: which call comes next, and why it does not go on.
//!
//! Bytes go from a source through a pipe to a sink, and the end of the source follows them. The pipe is filled only when
//! it is empty. So a source that would block always has no bytes, and never stands before a full pipe; readiness can be
//! trusted, and what one direction holds is bounded by one pipe.

use std::io::{self, ErrorKind};

/// So often it fills or empties the pipe before other connections have their turn: some milliseconds at most.
const ROUNDS: usize = 32;

/// What moves the bytes of one direction.
pub(super) trait SpliceIo {
    /// The source has bytes or has ended, as far as is known.
    fn is_source_ready(&self) -> bool;
    /// The sink takes bytes, as far as is known.
    fn is_sink_ready(&self) -> bool;
    /// Makes sure that there is a pipe. `false`: none can be had.
    fn acquire_pipe(&mut self) -> bool;
    /// Fills the empty pipe; 0: the source has ended. After `WouldBlock` the source is not ready any more.
    fn splice_in(&mut self) -> io::Result<usize>;
    /// Empties the pipe, which holds so many bytes. After `WouldBlock` the sink is not ready any more.
    fn splice_out(&mut self, held: usize) -> io::Result<usize>;
    /// Sends a FIN to the sink.
    fn shutdown_sink(&mut self) -> io::Result<()>;
    /// Gives the empty pipe back.
    fn release_pipe(&mut self);
}

/// The state of one direction.
#[derive(Debug, Default)]
pub(super) struct HalfDuplex {
    /// Bytes in the pipe.
    held: usize,
    phase: Phase,
}

/// Why [`HalfDuplex::advance`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The source or the sink is not ready.
    Blocked,
    /// There is no pipe.
    NoPipe,
    /// Other connections have their turn.
    Yielded,
    /// The sink has everything, and a FIN.
    Finished,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The source has ended, and the sink has no FIN yet.
    SourceEnded,
    /// The sink has a FIN.
    Finished,
    /// The sink must not get a FIN: the source may have ended because it was reset.
    Aborting,
}

impl HalfDuplex {
    /// Goes on as far as it can. An error of either side is final.
    pub(super) fn advance(&mut self, splice_io: &mut impl SpliceIo) -> io::Result<Progress> {
        for _ in 0..ROUNDS {
            let moved = match self.phase {
                _ if self.held > 0 => {
                    if !splice_io.is_sink_ready() {
                        return Ok(Progress::Blocked);
                    }
                    splice_io.splice_out(self.held).and_then(|count| self.drained(count))
                }
                Phase::Open | Phase::Aborting => {
                    if !splice_io.is_source_ready() {
                        splice_io.release_pipe();
                        return Ok(Progress::Blocked);
                    }
                    if !splice_io.acquire_pipe() {
                        return Ok(Progress::NoPipe);
                    }
                    match splice_io.splice_in() {
                        Ok(0) if self.phase == Phase::Aborting => return Ok(Progress::Blocked),
                        filled => filled.map(|count| self.filled(count)),
                    }
                }
                Phase::SourceEnded => {
                    splice_io.release_pipe();
                    splice_io.shutdown_sink()?;
                    self.phase = Phase::Finished;
                    return Ok(Progress::Finished);
                }
                Phase::Finished => return Ok(Progress::Finished),
            };
            match moved {
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(Progress::Yielded)
    }

    /// One direction failed: brings to the sink what can be brought without waiting, but no FIN. A pipe with bytes that
    /// the sink does not take any more is kept, and closed with the connection.
    pub(super) fn flush(&mut self, splice_io: &mut impl SpliceIo) {
        if self.phase != Phase::Finished {
            self.phase = Phase::Aborting;
            // The result does not matter; the sockets are reset next.
            let _ = self.advance(splice_io);
        }
        // Many clients reset, and a new pipe for each costs more than the socket options of a dial.
        if self.held == 0 {
            splice_io.release_pipe();
        }
    }

    /// Whether the sink has everything, and a FIN.
    pub(super) fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    fn filled(&mut self, count: usize) {
        self.held = count;
        if count == 0 {
            self.phase = Phase::SourceEnded;
        }
    }

    fn drained(&mut self, count: usize) -> io::Result<()> {
        // No kernel does that; if one did, this would loop for ever.
        if count == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        self.held = self.held.saturating_sub(count);
        Ok(())
    }
}

/// What epoll reported of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketEvents {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer sends no more: behind the last byte there is an end to be read.
    pub(super) closed: bool,
    /// It was reset, or its peer is gone.
    pub(super) failed: bool,
}

/// Whether a socket is ready. An edge-triggered event is reported once, so it stays true until the kernel says
/// `WouldBlock`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness(SocketEvents);

impl Readiness {
    pub(super) fn on_event(&mut self, events: SocketEvents) {
        self.0.readable |= events.readable;
        self.0.writable |= events.writable;
        self.0.closed |= events.closed;
        self.0.failed |= events.failed;
    }

    pub(super) fn on_read<T>(&mut self, result: &io::Result<T>) {
        self.0.readable &= !would_block(result);
    }

    /// Less was read than there was room for: another event will report more, unless the end was reported already.
    pub(super) fn on_short_read(&mut self) {
        self.0.readable &= self.0.closed;
    }

    pub(super) fn on_write<T>(&mut self, result: &io::Result<T>) {
        self.0.writable &= !would_block(result);
    }

    pub(super) fn is_readable(self) -> bool {
        self.0.readable
    }

    pub(super) fn is_writable(self) -> bool {
        self.0.writable
    }

    pub(super) fn has_failed(self) -> bool {
        self.0.failed
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests;
