//! TCP connections of probes: socket options that make the kernel notice a dead peer, and a bound on what is read.
//!
//! In: an address. Out: a stream. Names which failures are this node's own. Whatever a server sends too much of (handshake,
//! headers, body, unsolicited frames) is counted here, below TLS, so that no server can keep the daemon busy. The bound
//! is renewed with each request.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// Kernel timeouts while connecting, beyond the prober's own: idle time before keepalive, how long
/// a SYN or data may stay unacknowledged (TCP_USER_TIMEOUT). The oldest attempt stays open for a late answer.
const CONNECTING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The same for one that is kept. One second is the minimum (TCP_KEEPIDLE); the kernel sends keepalive after so much
/// idle time, and the peer's kernel answers, which costs its processes nothing. The prober checks whether it does;
/// the kernel gives up later than established connections may be terminated, so that an answer that is late is one.
const KEPT_OPEN: (Duration, Duration) = (KEEPALIVE, Duration::from_secs(8));
/// The keepalive interval of a kept connection.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(1);

/// Connects. The caller bounds the time.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(LocalError)?;
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true).map_err(LocalError)?;
    set_timeouts(options, CONNECTING).map_err(LocalError)?;
    socket.connect(address).await.map_err(|error| match error.kind() {
        // No free port, no memory: that says nothing of the backend.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse | io::ErrorKind::OutOfMemory => {
            ConnectError::Local(LocalError(error))
        }
        _ => ConnectError::Peer(error),
    })
}

/// Lets the kernel send TCP keepalive each second.
pub(super) fn enable_keepalive(stream: &TcpStream) -> io::Result<()> {
    set_timeouts(SockRef::from(stream), KEPT_OPEN)
}

fn set_timeouts(socket: SockRef<'_>, (silence, unacknowledged): (Duration, Duration)) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(silence).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive.with_retries(8))?;
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// Whether this node or the peer failed a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// This node's.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The backend's, or the network's.
    #[error("connect to the API server")]
    Peer(#[source] io::Error),
}

/// Any error of a probe.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// This node could not probe: no file descriptor, no free port, no memory. It does not count against the backend.
#[derive(Debug, thiserror::Error)]
#[error("open a socket for a probe")]
pub(super) struct LocalError(#[source] pub(super) io::Error);

/// Bytes for one request. A handshake with three certificates takes 5 KB, `/readyz` with all its reasons 3 KB.
const ALLOWANCE: usize = 128 * 1024;

/// How much more a stream may read.
#[derive(Clone, Debug)]
pub(super) struct ReadAllowance(Arc<AtomicUsize>);

impl ReadAllowance {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(ALLOWANCE)))
    }

    pub(super) fn renew(&self) {
        self.0.store(ALLOWANCE, Ordering::Relaxed);
    }

    fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn consume(&self, bytes: usize) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
    }
}

/// The stream. Fails with [`io::ErrorKind::InvalidData`] when the allowance is used up.
#[derive(Debug)]
pub(super) struct ReadLimitedStream {
    stream: TcpStream,
    allowance: ReadAllowance,
}

impl ReadLimitedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, allowance: ReadAllowance::new() }
    }

    pub(super) fn allowance(&self) -> ReadAllowance {
        self.allowance.clone()
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for ReadLimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.allowance.is_used_up() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the server sends more than any answer");
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.allowance.consume(buffer.filled().len() - before);
        result
    }
}

impl AsyncWrite for ReadLimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::FailReason;
    use crate::transport::failure::reason;

    #[tokio::test]
    async fn a_socket_is_set_to_notice_a_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(CONNECTING.1));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), CONNECTING.0);
        enable_keepalive(&stream).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(KEPT_OPEN.1));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEPT_OPEN.0);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn the_kernels_numbers() {
        for (number, expected) in [
            (111, FailReason::Refused),
            (104, FailReason::Reset),
            (32, FailReason::Reset),
            (110, FailReason::Timeout),
            (101, FailReason::Unreachable),
            (113, FailReason::Unreachable),
            (112, FailReason::Unreachable),
            (13, FailReason::Unreachable),
            (1, FailReason::Unreachable),
            (22, FailReason::Unreachable),
        ] {
            let error = ConnectError::Peer(io::Error::from_raw_os_error(number));
            assert_eq!(reason(&error), expected, "{error:?}");
        }
    }
}
