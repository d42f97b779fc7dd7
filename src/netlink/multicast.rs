//! A netlink socket that only listens to what the kernel tells everybody.
//!
//! Out: datagrams, and where some were lost, that it is so.

use std::future::poll_fn;
use std::io;

use futures_util::FutureExt;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};

/// The kernel gathers messages up to its page-sized `NLMSG_GOODSIZE`, and one message is no longer than this.
const DATAGRAM: usize = 64 << 10;
/// A reload of 5,000 Services says more than any buffer holds: what is lost then means a look, as an event does.
const RECEIVE_BUFFER: usize = 1 << 20;
const ENOBUFS: i32 = 105;

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
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
    pub async fn hear(&mut self) -> io::Result<Heard<'_>> {
        self.buffer.clear();
        let Self { socket, buffer } = self;
        match poll_fn(|context| socket.poll_recv(context, buffer)).await {
            Ok(()) => Ok(Heard::Datagram(buffer)),
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(error),
        }
    }

    /// The next datagram, if it is there already.
    pub fn heard(&mut self) -> Option<io::Result<Heard<'_>>> {
        self.hear().now_or_never()
    }
}
