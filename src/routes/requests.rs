//! Requests to rtnetlink: on a socket that hears no events, and on a thread that may wait for the kernel.
//!
//! The kernel works on a request while it is sent, and on a list while it is read. Before 6.9 both wait for the lock over all
//! network devices, which others hold for seconds; the runtime's thread must not wait with them.
//!
//! In: requests. Out: an answer within [`BOUND`], or an error. After one that is no answer of the kernel, the next request goes
//! over another socket.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use netlink_sys::AsyncSocket;
use rtnetlink::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::answer;

/// An answer takes some 20 us. Longer than the lock is held while a large node's devices come and go; what is asked for in
/// vain is asked for again.
const BOUND: Duration = Duration::from_secs(3);
/// So many threads may hang in the kernel. While they do, others would hang as well.
const THREADS: usize = 3;
/// A thread's stack: it runs one small task.
const STACK: usize = 256 << 10;

/// Opens sockets as they are needed, in the network namespace of the thread that asks.
#[derive(Default)]
pub(crate) struct Requests {
    open: Mutex<Option<Handle>>,
    threads: Arc<AtomicUsize>,
}

impl Requests {
    /// With a socket that is open.
    pub fn open() -> io::Result<Self> {
        let requests = Self::default();
        requests.handle()?;
        Ok(requests)
    }

    /// Asks, and waits for the answer for [`BOUND`] at most. A change that was given up may still be made.
    pub async fn ask<T, F>(&self, request: impl FnOnce(Handle) -> F) -> io::Result<T>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let outcome = match timeout(BOUND, request(self.handle()?)).await {
            Ok(outcome) => outcome.map_err(|error| answer(&error)),
            Err(_) => Err(late()),
        };
        if outcome.as_ref().is_err_and(|error| error.raw_os_error().is_none()) {
            *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome
    }

    fn handle(&self) -> io::Result<Handle> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = open.as_ref() {
            return Ok(handle.clone());
        }
        let running = Running::count(&self.threads).ok_or_else(late)?;
        let (opens, opened) = mpsc::sync_channel(1);
        thread::Builder::new().name("rtnetlink".to_owned()).stack_size(STACK).spawn(move || {
            let _running = running;
            work(&opens);
        })?;
        let handle = opened.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(open.insert(handle).clone())
    }
}

/// Opens a socket, and works until nobody can ask any more.
fn work(opens: &mpsc::SyncSender<io::Result<Handle>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(opens.send(Err(error))),
    };
    runtime.block_on(async {
        match rtnetlink::new_connection() {
            Ok((mut connection, handle, _)) => {
                // Without it the kernel ignores the filter of a dump, and a full routing table would be listed each time.
                let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
                // Whoever opens it waits for this.
                drop(opens.send(Ok(handle)));
                connection.await;
            }
            Err(error) => drop(opens.send(Err(error))),
        }
    });
}

/// Does something that may wait for that lock, on a thread of its own, and waits for it for [`BOUND`] at most.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    thread::Builder::new().name("devices".to_owned()).stack_size(STACK).spawn(move || {
        // Nobody listens after the bound.
        let _ = tell.send(work());
    })?;
    match timeout(BOUND, told).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        Err(_) => Err(late()),
    }
}

fn late() -> io::Error {
    let text = format!("no answer from the kernel's network configuration within {} s", BOUND.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Counts a thread for as long as it runs.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(threads: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |running: usize| (running < THREADS).then_some(running + 1);
        threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(threads)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::TryStreamExt;
    use tokio::time::Instant;

    use super::*;

    async fn links(requests: &Requests) -> io::Result<usize> {
        let listed = requests.ask(|handle| handle.link().get().execute().try_collect::<Vec<_>>()).await;
        listed.map(|links| links.len())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_lost_is_given_up_and_the_next_request_goes_over_another_socket() {
        let requests = Requests::open().unwrap();
        let before = Instant::now();
        let lost = requests.ask(|_| pending::<Result<(), rtnetlink::Error>>()).await.unwrap_err();
        assert_eq!((lost.kind(), before.elapsed()), (io::ErrorKind::TimedOut, BOUND));
        assert!(requests.open.lock().unwrap().is_none());
        tokio::time::resume();
        assert!(links(&requests).await.unwrap() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_kernels_lock_keeps_nobody_waiting_with_it() {
        let (release, held) = mpsc::channel::<()>();
        let before = Instant::now();
        let waits = apart(move || {
            let _ = held.recv();
            Ok(())
        });
        let late = waits.await.unwrap_err();
        assert_eq!((late.kind(), before.elapsed()), (io::ErrorKind::TimedOut, BOUND));
        drop(release);
        tokio::time::resume();
        assert_eq!(apart(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_refusal_by_the_kernel_is_an_answer() {
        let requests = Requests::open().unwrap();
        let none = requests
            .ask(|handle| handle.link().get().match_index(0x7fff_fff0).execute().try_collect::<Vec<_>>());
        assert_eq!(none.await.unwrap_err().raw_os_error(), Some(19), "ENODEV");
        assert!(requests.open.lock().unwrap().is_some());
    }

    #[tokio::test]
    async fn no_more_than_a_few_threads_hang_in_the_kernel() {
        let requests = Requests::default();
        let hanging: Vec<Running> =
            (0..THREADS).map(|_| Running::count(&requests.threads).unwrap()).collect();
        assert_eq!(links(&requests).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(hanging);
        assert!(links(&requests).await.unwrap() > 0);
    }
}
