//! Sockets with their options set: listeners, and streams that are reset when closed unless both sides ended in order.
//!
//! So whatever goes wrong, including the end of this process, the peer gets a reset, and does not take half an answer for
//! a whole one. What the kernel has not sent by then is lost, as with any reset.
//!
//! An accepted socket has the options of its listener, so that a connection costs no system calls for them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{self, PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

/// More than 1,000 clients that come back at the same moment; the kernel caps it at net.core.somaxconn, 4096 by
/// default.
const BACKLOG: i32 = 4096;
/// A peer that is gone without FIN or RST is found after 15 s + 4 × 15 s, well before clients of a watch give up on their
/// own, and probes are rare enough to cost nothing. They also keep conntrack entries on the path alive.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// A host that restarted answers a keepalive probe with a reset. So a suspect backend gets one each second, the shortest
/// interval that the kernel has. A host that does not answer is given up no sooner than with [`KEEPALIVE`].
const SUSPECT_KEEPALIVE: Duration = Duration::from_secs(1);
const SUSPECT_KEEPALIVE_PROBES: u32 = 75;

/// How often the kernel probes the other end of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keepalive {
    /// Its backend is not suspect.
    Usual,
    /// While its backend is suspect.
    EachSecond,
}

/// A new non-blocking socket.
pub(super) fn new(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)
}

/// TCP_NODELAY, and a reset when closed.
pub(super) fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)
}

/// Enables TCP keepalive, which finds a dead peer.
pub(super) fn keep_alive(socket: &SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let (time, probes) = match keepalive {
        Keepalive::Usual => (KEEPALIVE, KEEPALIVE_PROBES),
        Keepalive::EachSecond => (SUSPECT_KEEPALIVE, SUSPECT_KEEPALIVE_PROBES),
    };
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(time);
    socket.set_tcp_keepalive(&keepalive.with_retries(probes))
}

/// Listens on an address that need not be assigned to this node.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    // A local route makes an IPv4 address bindable, but not an IPv6 one; and the route may come later.
    match address {
        SocketAddr::V4(_) => {
            socket.set_freebind_v4(true)?;
            // So that answers leave from a virtual IP that is local in a table other than `local` only: the kernel looks
            // for other sources in that one (`ip_route_output_key_hash_rcu`). Needs a capability that the daemon has.
            let _ = socket.set_ip_transparent_v4(true);
        }
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    // Connections of an earlier process that are in TIME_WAIT are no reason not to start.
    socket.set_reuse_address(true)?;
    set_options_of_listener(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Prepares a listener that another process handed over.
pub(super) fn adopt(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    set_options_of_listener(&SockRef::from(listener))
}

fn set_options_of_listener(socket: &SockRef<'_>) -> io::Result<()> {
    set_options(socket)?;
    keep_alive(socket, Keepalive::Usual)
}

/// poll(2) without waiting: those of `events` that are true of the socket now, and always POLLERR and POLLHUP.
pub(super) fn state(socket: impl AsFd, events: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(&socket, events)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If poll fails, no event is reported.
    let _ = event::poll(&mut polled, Some(&now));
    polled[0].revents()
}

/// From here on closing the socket is no reset: the kernel goes on to deliver what was written.
pub(super) fn close_gracefully(stream: impl AsFd) {
    // If that fails, it is reset.
    let _ = SockRef::from(&stream).set_linger(None);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn accepted_socket_inherits_the_options_of_its_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener =
                tokio::net::TcpListener::from_std(listen(address.parse().unwrap()).unwrap()).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let socket = SockRef::from(&stream);
            assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        }
    }

    #[test]
    fn address_that_is_not_assigned_can_be_listened_on() {
        for address in ["198.51.100.7:0", "[2001:db8::7]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = listen(address).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), address.ip());
        }
    }
}
