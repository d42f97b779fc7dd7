//! A netlink socket that listens to multicast groups.
//!
//! In: a protocol and its groups. Out: the kernel's notifications as datagrams, and where some were lost, that it is so.

use std::future::poll_fn;
use std::io;

use futures_util::FutureExt;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;

/// The kernel gathers messages up to its page-sized `NLMSG_GOODSIZE`, and one message is no longer than this.
const DATAGRAM: usize = 64 << 10;
/// A reload of 5,000 Services says more than any buffer holds: what is lost then means a verification, as an event does.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notification<'a> {
    /// Messages.
    Datagram(&'a [u8]),
    /// Some were lost.
    Lost,
}

/// The socket.
pub(crate) struct Multicast {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Multicast {
    /// Listens to groups of a netlink protocol in the current network namespace.
    pub fn open(protocol: isize, groups: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.socket_mut().add_membership(group)?;
        }
        // Without the privilege the default holds less, and more is lost.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.socket_ref(), RECEIVE_BUFFER);
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The next datagram.
    pub async fn receive(&mut self) -> io::Result<Notification<'_>> {
        self.buffer.clear();
        let Self { socket, buffer } = self;
        match poll_fn(|context| socket.poll_recv(context, buffer)).await {
            Ok(()) => Ok(Notification::Datagram(buffer)),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => Ok(Notification::Lost),
            Err(error) => Err(error),
        }
    }

    /// The next datagram, if it is there already.
    pub fn try_receive(&mut self) -> Option<io::Result<Notification<'_>>> {
        self.receive().now_or_never()
    }
}
