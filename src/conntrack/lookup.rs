//! What the kernel knows of one connection of this host: conntrack's entry, whether both ends are here, and when the other
//! end was heard last.
//!
//! Reads only. In: the connection's two ends as this host dialled them. Out: who answers it.

use std::net::SocketAddr;
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_SOCK_DIAG};

use super::sockets;
use crate::conntrack::entries::{self, Entry, Flow};
use crate::netlink::netlink::{Channel, NetlinkError};

const ENOENT: i32 = 2;

/// Two netlink sockets in the network namespace of the thread that opened them.
pub struct Lookup {
    conntrack: Channel,
    sockets: Channel,
}

impl Lookup {
    /// Opens them. Asking conntrack needs CAP_NET_ADMIN.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            conntrack: Channel::open(NETLINK_NETFILTER, "conntrack")?,
            sockets: Channel::open(NETLINK_SOCK_DIAG, "the host's sockets")?,
        })
    }

    /// Who answers the connection that `client` opened to `dialled`: another one than that where it was translated.
    /// `None`: conntrack has no such entry outside of its zones.
    pub fn answers(
        &mut self,
        client: SocketAddr,
        dialled: SocketAddr,
    ) -> Result<Option<SocketAddr>, NetlinkError> {
        let flow = Flow { client, vip: dialled };
        match self.conntrack.ask(entries::GET, 0, &entries::one(flow)) {
            Ok(body) => Ok(body.and_then(|body| entry(&body, flow))),
            Err(error) if error.refusal() == Some(ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same in whatever zone. The kernel looks at every entry for it: some 10 ms for 100,000.
    pub fn answers_in_any_zone(
        &mut self,
        client: SocketAddr,
        dialled: SocketAddr,
    ) -> Result<Option<SocketAddr>, NetlinkError> {
        let flow = Flow { client, vip: dialled };
        let select = |body: &[u8]| entry(body, flow);
        let found = self.conntrack.dump(entries::GET, &entries::any_zone(flow), select)?;
        Ok(found.into_iter().next())
    }

    /// Whether `dialled` is a socket of this host that is connected to `client`. `false` where that cannot be asked.
    pub fn is_own(&mut self, client: SocketAddr, dialled: SocketAddr) -> bool {
        let found = self.sockets.ask(sockets::LIST, 0, &sockets::one(dialled, client));
        found.ok().flatten().is_some_and(|body| sockets::is_connection(&body))
    }
}

/// A netlink socket that asks for this host's own TCP connections. Needs no capability.
pub struct OwnConnections(Channel);

impl OwnConnections {
    /// Opens it, in the network namespace of this thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Channel::open(NETLINK_SOCK_DIAG, "the host's sockets")?))
    }

    /// How long ago `peer` acknowledged something last on the connection from `own`, be it a keepalive of the kernel's.
    /// `None`: there is no such connection.
    pub fn acknowledged(
        &mut self,
        own: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Option<Duration>, NetlinkError> {
        match self.0.ask(sockets::LIST, 0, &sockets::one_with_info(own, peer)) {
            Ok(Some(body)) => sockets::acknowledged(&body)
                .map_err(|error| NetlinkError::Malformed("the host's sockets", error)),
            Ok(None) => Ok(None),
            Err(error) if error.refusal() == Some(ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn entry(body: &[u8], wanted: Flow) -> Option<SocketAddr> {
    let Entry { flow, answers, .. } = entries::entry(body).ok().flatten()?;
    (flow == wanted).then_some(answers)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_acknowledgement_is_seen_and_ages() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_peer, _) = listener.accept().unwrap();
            let (own, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let mut kernel = OwnConnections::open().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            let before = kernel.acknowledged(own, peer).unwrap().unwrap();
            assert!(before >= Duration::from_millis(250), "{any}: nothing was sent for 300 ms: {before:?}");
            stream.write_all(b"x").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let after = kernel.acknowledged(own, peer).unwrap().unwrap();
            assert!(after < before, "{any}: {after:?} after {before:?}");
            assert_eq!(kernel.acknowledged(peer, peer).unwrap(), None);
        }
    }
}
