//! Pipes that carry bytes from socket to socket within the kernel, and a pool of idle ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::sync::Notify;

/// Larger ones are no faster: they fall out of the processor's cache.
const SIZE: usize = 256 << 10;
/// A pool for bursts. Each connection that is busy at the moment has its own pipes on top.
const IDLE: usize = 64;
/// Between two tries to make a pipe while the process has no descriptors.
const RETRY: Duration = Duration::from_millis(50);

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

#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<Vec<Pipe>>,
    /// Connections for which no pipe could be made.
    starved: RefCell<BTreeMap<u64, Waker>>,
    starving: Notify,
}

impl Pool {
    /// A pipe for this connection; if none can be made, it is woken to try again.
    pub(super) fn poll_take(&self, connection: u64, cx: &Context<'_>) -> Poll<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Poll::Ready(pipe);
        }
        match Pipe::new() {
            Ok(pipe) => Poll::Ready(pipe),
            Err(_) => {
                self.starved.borrow_mut().insert(connection, cx.waker().clone());
                self.starving.notify_one();
                Poll::Pending
            }
        }
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE {
            idle.push(pipe);
        }
        if let Some((_, waker)) = self.starved.borrow_mut().pop_first() {
            waker.wake();
        }
    }

    /// Closes the idle pipes: the process has no descriptors left.
    pub(super) fn shrink(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Wakes those that wait for a pipe, again and again.
    pub(super) async fn feed(&self) {
        loop {
            self.starving.notified().await;
            tokio::time::sleep(RETRY).await;
            self.starved.take().into_values().for_each(Waker::wake);
        }
    }
}
