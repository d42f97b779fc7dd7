//! The open connections of a simulated apiserver, and the two things that can be done to them: silence and reset.
//!
//! In: accepted TCP streams. Out: [`Gated`] streams that neither read nor write while their gate is closed (the
//! kernel still acknowledges, the process does not answer), and that close with a TCP reset when told to.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::sim::protocol::Opened;

/// More connections than this are closed at once, so that a silent server's memory stays bounded.
const MAX_OPEN: usize = 16_000;

/// The connections of one kind (API or echo).
#[derive(Default)]
pub struct Connections {
    silent: AtomicBool,
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Slot>>>,
}

/// What the table keeps of one connection.
#[derive(Default)]
struct Slot {
    reset: AtomicBool,
    told: Notify,
    /// Tasks that wait for the gate: the reader's and the writer's.
    waiting: Mutex<[Option<Waker>; 2]>,
}

/// A connection in the table; it leaves the table when dropped.
pub struct Gated {
    stream: TcpStream,
    id: u64,
    slot: Arc<Slot>,
    table: Arc<Connections>,
}

/// Resolves when the connection it belongs to is to be reset.
pub struct ResetSignal(Arc<Slot>);

impl Connections {
    /// Takes a connection in, or drops it when there are too many.
    pub fn admit(self: &Arc<Self>, stream: TcpStream) -> Option<Gated> {
        let id = self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut open = lock(&self.open);
        if open.len() >= MAX_OPEN {
            return None;
        }
        let slot = Arc::new(Slot::default());
        open.insert(id, slot.clone());
        Some(Gated { stream, id, slot, table: self.clone() })
    }

    /// Closes or opens the gate of every connection, present and future.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
        if !silent {
            for slot in lock(&self.open).values() {
                slot.wake();
            }
        }
    }

    /// Resets every connection that is open now.
    pub fn reset_all(&self) {
        for slot in lock(&self.open).values() {
            slot.reset.store(true, Ordering::SeqCst);
            slot.told.notify_one();
        }
    }

    /// Counts.
    pub fn opened(&self) -> Opened {
        Opened { open: lock(&self.open).len(), accepted: self.accepted.load(Ordering::Relaxed) }
    }
}

impl Slot {
    fn wake(&self) {
        for waker in lock(&self.waiting).iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }
}

impl Gated {
    /// The signal to drop this connection; it then closes with a reset.
    pub fn reset_signal(&self) -> ResetSignal {
        ResetSignal(self.slot.clone())
    }

    /// The server's own address of this connection.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Whether the task has to wait. The gate is looked at again after the waker is stored, because it may have
    /// opened in between.
    fn shut(&self, side: usize, context: &Context<'_>) -> bool {
        if !self.table.silent.load(Ordering::SeqCst) {
            return false;
        }
        lock(&self.slot.waiting)[side] = Some(context.waker().clone());
        self.table.silent.load(Ordering::SeqCst)
    }
}

impl ResetSignal {
    /// Waits for it.
    pub async fn told(&self) {
        self.0.told.notified().await;
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        lock(&self.table.open).remove(&self.id);
        if self.slot.reset.load(Ordering::SeqCst) {
            // Fails only when the peer has already reset the connection.
            let _ = self.stream.set_zero_linger();
        }
    }
}

const READ: usize = 0;
const WRITE: usize = 1;

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shut(READ, context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.shut(WRITE, context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shut(WRITE, context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
