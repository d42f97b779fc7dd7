//! Pipes that carry bytes from socket to socket within the kernel, a pool of idle ones, and the buffer for what is so
//! short that it is copied.

use std::cell::{RefCell, RefMut};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Larger ones are no faster: they fall out of the processor's cache.
const SIZE: usize = 256 << 10;
/// A pool for bursts. Each connection that is busy at the moment has its own pipes on top.
const IDLE: usize = 64;

pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused beyond what one user may have (fs.pipe-user-pages-soft): then it is smaller, and slower.
        let _ = fcntl_setpipe_size(&write, SIZE);
        Ok(Self { read, write })
    }

    /// Takes from a socket what is there, as far as it fits; 0: the end.
    pub(super) fn fill(&self, source: impl AsFd) -> io::Result<usize> {
        Ok(splice(source, None, &self.write, None, SIZE, SpliceFlags::NONBLOCK)?)
    }

    /// Gives a socket some of the bytes that are held. SPLICE_F_MORE would let the kernel wait for more of them.
    pub(super) fn drain(&self, sink: impl AsFd, held: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, sink, None, held, SpliceFlags::NONBLOCK)?)
    }
}

/// What fits is copied: two calls carry it, and a short read says that nothing is left. A splice takes three, each of them
/// dearer; the third finds nothing.
pub(super) const BRIEF: usize = 16 << 10;

/// Idle pipes, all empty, and a buffer for whose turn it is.
pub(super) struct Pool {
    idle: RefCell<Vec<Pipe>>,
    buffer: RefCell<Box<[u8]>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: RefCell::default(), buffer: RefCell::new(vec![0; BRIEF].into_boxed_slice()) }
    }
}

impl Pool {
    /// None: the process has no descriptors left.
    pub(super) fn take(&self) -> Option<Pipe> {
        let idle = self.idle.borrow_mut().pop();
        idle.or_else(|| Pipe::new().ok())
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE {
            idle.push(pipe);
        }
    }

    /// Closes all: their descriptors are needed.
    pub(super) fn shrink(&self) {
        self.idle.borrow_mut().clear();
    }

    /// The buffer; nothing in it outlasts a turn.
    pub(super) fn buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.buffer.borrow_mut()
    }
}
