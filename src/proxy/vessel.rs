//! What carries the bytes of one direction: short messages are copied, and what is longer goes through a pipe.
//!
//! A copy is written as soon as it was read. What the sink did not take of it is kept here until it does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::pipe::{BRIEF, Pipe, Pool};
use super::readiness::Ready;

#[derive(Default)]
pub(super) struct Vessel {
    pipe: Option<Pipe>,
    /// More came at once than is copied: until less comes, it goes through the pipe.
    bulk: bool,
    /// So much of what was copied has been written and not been counted yet.
    ahead: usize,
    /// The part of a copy that the sink did not take.
    rest: Vec<u8>,
}

impl Vessel {
    /// Makes sure that something can be carried. `false`: that needs a pipe, and none can be had.
    pub(super) fn prepare(&mut self, pool: &Pool, may_copy: bool) -> bool {
        if self.pipe.is_none() && (self.bulk || !may_copy) {
            self.pipe = pool.take();
            return self.pipe.is_some();
        }
        true
    }

    /// Whether what comes next is to be copied.
    pub(super) fn copies(&self) -> bool {
        self.pipe.is_none()
    }

    /// Fills the empty pipe; 0: the source has ended.
    pub(super) fn fill(&mut self, source: &TcpStream) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let filled = pipe.fill(source);
        self.bulk &= !matches!(filled, Ok(count) if count < BRIEF);
        filled
    }

    /// Brings what is short from the source to the sink, as much of it as that takes at once; 0: the source has ended. An
    /// error is the source's, or one of the sink that is final.
    pub(super) fn copy(
        &mut self,
        (mut source, readable): (impl Read, &mut Ready),
        (mut sink, writable): (impl Write, &mut Ready),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let read = source.read(buffer);
        readable.learn_read(&read);
        let count = read?;
        if count == 0 {
            return Ok(0);
        }
        self.bulk = count == buffer.len();
        if !self.bulk {
            readable.learn_short_read();
        }
        let written = sink.write(&buffer[..count]);
        writable.learn_write(&written);
        self.ahead = match written {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.rest.extend_from_slice(&buffer[self.ahead..count]);
        Ok(count)
    }

    /// Whether something was written that is not counted yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// How much, once.
    pub(super) fn take_ahead(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.ahead)).filter(|count| *count > 0)
    }

    /// Gives the sink some of the bytes that are held.
    pub(super) fn drain(&mut self, sink: &TcpStream, held: usize) -> io::Result<usize> {
        if !self.rest.is_empty() {
            return self.drain_rest(sink);
        }
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        pipe.drain(sink, held)
    }

    fn drain_rest(&mut self, mut sink: impl Write) -> io::Result<usize> {
        let count = sink.write(&self.rest)?;
        self.rest.drain(..count);
        Ok(count)
    }

    /// Nothing is held: gives the pipe back, and the memory of what the sink did not take.
    pub(super) fn release(&mut self, pool: &Pool) {
        if let Some(pipe) = self.pipe.take() {
            pool.give(pipe);
        }
        self.rest = Vec::new();
    }
}

#[cfg(test)]
mod tests;
