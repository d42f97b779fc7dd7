//! One direction of a connection: bytes go from a source through a pipe to a sink, and its end follows them.
//!
//! The pipe is filled only when it is empty. So a source that would block is always one without bytes, never one in
//! front of a full pipe, and readiness can be trusted; and what one direction holds is bounded by one pipe.

use std::io::{self, ErrorKind};

/// So often it fills or empties the pipe before others have their turn: some milliseconds at most.
const ROUNDS: usize = 32;

/// What moves the bytes.
pub(super) trait Wire {
    /// The source has bytes or has ended, as far as is known.
    fn is_source_ready(&self) -> bool;
    /// The sink takes bytes, as far as is known.
    fn is_sink_ready(&self) -> bool;
    /// Makes sure that there is a pipe, if one can be had.
    fn take_pipe(&mut self) -> bool;
    /// Fills the empty pipe; 0: the source has ended. After `WouldBlock` the source is not ready any more.
    fn splice_in(&mut self) -> io::Result<usize>;
    /// Empties the pipe, which holds so many bytes. After `WouldBlock` the sink is not ready any more.
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

/// Why it does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A side is not ready.
    Waits,
    /// There is no pipe.
    Starves,
    /// Others have their turn.
    Yields,
    /// The sink was told of the end.
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Goes on as far as it can. An error of either side is final.
    pub(super) fn advance(&mut self, wire: &mut impl Wire) -> io::Result<Stop> {
        for _ in 0..ROUNDS {
            let moved = match self.phase {
                _ if self.held > 0 => {
                    if !wire.is_sink_ready() {
                        return Ok(Stop::Waits);
                    }
                    wire.splice_out(self.held).and_then(|count| self.emptied(count))
                }
                Phase::Flowing | Phase::Doomed => {
                    if !wire.is_source_ready() {
                        wire.release_pipe();
                        return Ok(Stop::Waits);
                    }
                    if !wire.take_pipe() {
                        return Ok(Stop::Starves);
                    }
                    match wire.splice_in() {
                        Ok(0) if self.phase == Phase::Doomed => return Ok(Stop::Waits),
                        filled => filled.map(|count| self.filled(count)),
                    }
                }
                Phase::Ended => {
                    wire.release_pipe();
                    wire.shut_sink()?;
                    self.phase = Phase::Told;
                    return Ok(Stop::Ended);
                }
                Phase::Told => return Ok(Stop::Ended),
            };
            match moved {
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(Stop::Yields)
    }

    /// One direction failed: brings to the sink what can be brought without waiting, but no end. A pipe with bytes that
    /// nobody takes any more is kept, and goes with the connection.
    pub(super) fn flush(&mut self, wire: &mut impl Wire) {
        if self.phase != Phase::Told {
            self.phase = Phase::Doomed;
            // All that matters happens on the way; the sockets are reset next.
            let _ = self.advance(wire);
        }
        // Clients that reset are many, and a new pipe for each costs more than the options of a dial.
        if self.held == 0 {
            wire.release_pipe();
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
