//! Sockets with their options set: listeners, and streams that are reset when closed unless they ended well.
//!
//! So whatever goes wrong, the end of this process included, a peer is told that something went wrong, and takes no
//! half of an answer for a whole one. What the kernel has not sent by then is lost, as with any reset.
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
/// A peer that is gone without a word is found after 15 s + 4 × 15 s, well before anything that watches it gives up
/// on its own, and probes are rare enough to cost nothing. They also keep entries of conntrack on the way alive.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// A host that lost its memory resets a connection on which it is asked: while there is doubt, each second, which is the least that
/// the kernel takes. Silence alone ends nothing sooner than it usually would.
const DOUBT: Duration = Duration::from_secs(1);
const DOUBT_PROBES: u32 = 75;

/// How often the kernel asks the other end of a connection that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keepalive {
    /// As long as nothing speaks against it.
    Usual,
    /// While its backend is suspect.
    EachSecond,
}

/// A new socket that does not block.
pub(super) fn new(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)
}

/// Sends at once what is there, and resets when closed.
pub(super) fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)
}

/// Notices a dead peer.
pub(super) fn keep_alive(socket: &SockRef<'_>, pace: Keepalive) -> io::Result<()> {
    let (time, probes) = match pace {
        Keepalive::Usual => (KEEPALIVE, KEEPALIVE_PROBES),
        Keepalive::EachSecond => (DOUBT, DOUBT_PROBES),
    };
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(time);
    socket.set_tcp_keepalive(&keepalive.with_retries(probes))
}

/// Listens on an address that this node need not have.
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

/// Takes a listener of another process.
pub(super) fn adopt(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    set_options_of_listener(&SockRef::from(listener))
}

fn set_options_of_listener(socket: &SockRef<'_>) -> io::Result<()> {
    set_options(socket)?;
    keep_alive(socket, Keepalive::Usual)
}

/// What is the case with a socket now: of `asked`, and always whether it was reset or is over.
pub(super) fn state(socket: impl AsFd, asked: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(&socket, asked)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where that cannot be told now, nothing is.
    let _ = event::poll(&mut polled, Some(&now));
    polled[0].revents()
}

/// From here on closing it is no reset: the kernel goes on to deliver what was written.
pub(super) fn end_in_order(stream: impl AsFd) {
    // Where that fails it is reset, as if something had gone wrong.
    let _ = SockRef::from(&stream).set_linger(None);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_has_the_options_of_its_listener() {
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
    fn an_address_that_the_node_does_not_have_can_be_listened_on() {
        for address in ["198.51.100.7:0", "[2001:db8::7]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = listen(address).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), address.ip());
        }
    }
}
