//! HTTP/1 for few clients at a time, none of which can cost much: headers are bounded in size and time, a connection is
//! for one request and has an end, and when there are as many as may be, the oldest idle one goes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::handler::Handler;

/// Connections of one listener. A scrape takes milliseconds; the forwarder leaves descriptors for all of these.
const MOST: usize = 12;
/// More than any client of this sends before its request is whole. Hyper takes no less than 8 KiB.
const HEADERS: usize = 8 << 10;
/// A client whose request is not whole by then is gone.
const REQUEST: Duration = Duration::from_secs(5);
/// From the first byte to the last one of the answer, whether or not the client reads it.
const WHOLE: Duration = Duration::from_secs(15);
/// When the kernel has no descriptor or memory for a connection.
const REST: Duration = Duration::from_millis(100);

/// Something that connections come from.
pub(super) trait Accept {
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
struct Open {
    task: AbortHandle,
    /// Its request is whole, and is being answered.
    asked: Arc<AtomicBool>,
}

/// Answers until it is dropped, and all its connections with it. `private`: only this host's own names are answered.
pub(super) async fn serve<L: Accept>(listener: L, private: bool, handler: Arc<Handler>) {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept a connection to the admin listener");
                sleep(REST).await;
                continue;
            }
        };
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= MOST {
            let idle = open.iter().position(|connection| !connection.asked.load(Relaxed));
            if let Some(shed) = open.remove(idle.unwrap_or(0)) {
                shed.task.abort();
            }
        }
        let asked = Arc::new(AtomicBool::new(false));
        let task = tasks.spawn(converse(stream, private, Arc::clone(&handler), Arc::clone(&asked)));
        open.push_back(Open { task, asked });
        // A request that has arrived already is read before the next connection can push this one out.
        tokio::task::yield_now().await;
    }
}

async fn converse<S>(stream: S, private: bool, handler: Arc<Handler>, asked: Arc<AtomicBool>)
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
        .header_read_timeout(REQUEST)
        .max_buf_size(HEADERS)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(WHOLE, served).await {
        tracing::debug!(%error, "answer a request to the admin listener");
    }
}
