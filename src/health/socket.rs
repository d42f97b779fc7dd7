//! TCP connections that notice a dead peer by themselves.
//!
//! In: an address. Out: a stream with its socket options set. Names which failures are this node's own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::failure::LocalError;

/// The backstop for a connection that is being made, whose time we take ourselves: silence before the kernel asks, how long
/// a SYN or data may stay unacknowledged (TCP_USER_TIMEOUT). The oldest dial stays open for a late answer.
const BACKSTOP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The same for one that is kept. One second is the least that the kernel takes (TCP_KEEPIDLE); it asks after so much silence, and
/// the host's kernel answers, which costs its processes nothing. Whether it does is looked at here; the kernel gives up later than
/// established connections may be ended, so that an answer that is late is one.
const KEPT: (Duration, Duration) = (KEEPALIVE, Duration::from_secs(8));
/// Between two questions of the kernel's on a kept connection.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(1);

/// Connects. The caller bounds the time.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, LocalOr> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(LocalError)?;
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true).map_err(LocalError)?;
    watch_over(options, BACKSTOP).map_err(LocalError)?;
    socket.connect(address).await.map_err(|error| match error.kind() {
        // No free port, no memory: that says nothing of the backend.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse | io::ErrorKind::OutOfMemory => {
            LocalOr::Local(LocalError(error))
        }
        _ => LocalOr::Peer(error),
    })
}

/// Lets the kernel ask each second whether the peer is there.
pub(super) fn ask_by_keepalive(stream: &TcpStream) -> io::Result<()> {
    watch_over(SockRef::from(stream), KEPT)
}

fn watch_over(socket: SockRef<'_>, (silence, unacknowledged): (Duration, Duration)) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(silence).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive.with_retries(8))?;
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// Whose fault it is that a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalOr {
    /// This node's.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The backend's, or the way to it.
    #[error("connect to the apiserver")]
    Peer(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_set_to_notice_a_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(BACKSTOP.1));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), BACKSTOP.0);
        ask_by_keepalive(&stream).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(KEPT.1));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEPT.0);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
    }
}
