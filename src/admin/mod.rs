//! The admin interface: HTTP on `RUN_DIR/apivip.sock`, which only root may open, and on `--admin-listen`.
//!
//! In: connections. Out: the same answers on both. Few clients are served at a time, none of which can cost much: headers are
//! bounded in size and time, a connection is for one request and has an end, and when there are as many as may be, the oldest
//! idle one is closed.

pub mod client;
mod handler;
mod health;
mod page;

pub use handler::Sources;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use handler::Handler;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::process::lock::{self, SOCKET_FILE};

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listen on {}", .path.display())]
pub struct AdminError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Binds the socket in `run_dir`, whose lock the caller holds.
pub fn bind(run_dir: &Path) -> Result<UnixListener, AdminError> {
    let path = run_dir.join(SOCKET_FILE);
    lock::bind(&path).map_err(|source| AdminError { path, source })
}

/// Answers on the socket, and on `address` once it can be had, until the task is dropped.
pub async fn serve(socket: UnixListener, address: Option<SocketAddr>, sources: Sources) {
    let handler = Arc::new(Handler::new(sources));
    let tcp = async {
        if let Some(address) = address {
            let listener = listen(address).await;
            serve_listener(listener, address.ip().is_loopback(), Arc::clone(&handler)).await;
        }
    };
    tokio::join!(serve_listener(socket, false, Arc::clone(&handler)), tcp, handler.sample());
}

/// Connections of one listener. A scrape takes milliseconds; the forwarder leaves descriptors for all of these.
const MAX_CONNECTIONS: usize = 12;
/// More than any client of this sends before its request is whole. Hyper takes no less than 8 KiB.
const HEADER_BYTES: usize = 8 << 10;
/// The time for a whole request; after that the connection is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte to the last one of the answer, whether or not the client reads it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// When the kernel has no descriptor or memory for a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Something that connections come from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// A connection that is open, oldest first in its queue.
struct OpenConnection {
    task: AbortHandle,
    /// Its request is whole, and is being answered.
    asked: Arc<AtomicBool>,
}

/// Answers until it is dropped, and all its connections with it. `private`: only this host's own names are answered.
async fn serve_listener<L: Accept>(listener: L, private: bool, handler: Arc<Handler>) {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<OpenConnection> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(
                    event = %"admin_accept_failed", %error,
                    "Failed to accept connection to admin listener"
                );
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            let idle = open.iter().position(|connection| !connection.asked.load(Relaxed));
            if let Some(shed) = open.remove(idle.unwrap_or(0)) {
                shed.task.abort();
            }
        }
        let asked = Arc::new(AtomicBool::new(false));
        let task = tasks.spawn(serve_connection(stream, private, Arc::clone(&handler), Arc::clone(&asked)));
        open.push_back(OpenConnection { task, asked });
        // A request that has arrived already is read before the next connection can push this one out.
        tokio::task::yield_now().await;
    }
}

async fn serve_connection<S>(stream: S, private: bool, handler: Arc<Handler>, asked: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        asked.store(true, Relaxed);
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.answer(&request, private).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, served).await {
        tracing::debug!(event = %"admin_request_failed", %error, "Failed to answer request to admin listener");
    }
}

/// Between two tries. Whoever has the port may be a daemon that is about to end.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// Returns once it listens.
async fn listen(address: SocketAddr) -> TcpListener {
    if !address.ip().is_loopback() {
        tracing::warn!(
            event = %"admin_listener_exposed", %address,
            "Admin listener accepts unauthenticated requests of other hosts"
        );
    }
    let mut reported: Option<io::ErrorKind> = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if reported.is_some() {
                    tracing::info!(event = %"admin_listener_active", %address, "Admin listener is open");
                }
                return listener;
            }
            Err(error) if reported == Some(error.kind()) => {}
            Err(error) => {
                reported = Some(error.kind());
                tracing::warn!(
                    event = %"admin_listener_failed", %address, %error,
                    "Failed to open admin listener, retrying"
                );
            }
        }
        sleep(BIND_RETRY).await;
    }
}
