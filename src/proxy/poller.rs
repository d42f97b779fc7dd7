//! An epoll instance for the sockets of connections that are carried.
//!
//! The runtime could watch them, too, but at half a kilobyte for each socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::readiness::Events;

/// Events taken at once; others have their turn in between.
const BATCH: usize = 256;

pub(super) struct Poller {
    epoll: AsyncFd<OwnedFd>,
    events: Vec<Event>,
}

impl Poller {
    #[expect(
        deprecated,
        reason = "its successor asks for what this code must not promise; an OwnedFd keeps it anyway"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let epoll = AsyncFd::with_interest(epoll::create(CreateFlags::CLOEXEC)?, Interest::READABLE)?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    /// Tells of this socket from now on under this name, until it is closed. What is the case already is told, too.
    pub(super) fn watch(&self, socket: impl AsFd, name: u64) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(self.epoll.get_ref(), socket, EventData::new_u64(name), edges)?)
    }

    /// Waits for events, and takes a batch of them; those of the last one must be drained. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        let mut guard = self.epoll.readable().await?;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(guard.get_inner(), spare_capacity(&mut self.events), Some(&now))?;
        // Less than there was room for is all there were; the next one wakes us again.
        if count < BATCH {
            guard.clear_ready();
        }
        Ok(())
    }

    /// Hands out the events of the batch, by the names of their sockets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, Events)> {
        self.events.drain(..).map(|event| (event.data.u64(), translate(event.flags)))
    }
}

fn translate(flags: EventFlags) -> Events {
    let over = EventFlags::HUP | EventFlags::ERR;
    Events {
        readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | over),
        writable: flags.intersects(EventFlags::OUT | over),
        closed: flags.intersects(EventFlags::RDHUP | over),
        failed: flags.contains(EventFlags::ERR),
    }
}
