//! What the kernel knows of connections: which backend answers one of this host, when its peer acknowledged something last, and
//! how many bytes those through the rules have carried.
//!
//! Reads only. In: the two ends of a connection as this host dialled them, or virtual IPs and the ports of their backends.
//! Out: who answers it, or [`Traffic`]. The kernel counts bytes only while `net.netfilter.nf_conntrack_acct` is 1 in this
//! network namespace; the setting is the operator's, and is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_SOCK_DIAG};
use rustix::io::Errno;

use super::entries::{self, Entry, Flow, TcpState};
use super::kernel::is_filter_unsupported;
use super::sock_diag;
use crate::model::traffic::Traffic;
use crate::model::types::Vip;
use crate::netlink::channel::{Channel, NetlinkError};

const ACCOUNTING: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";

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
    pub fn backend_of(
        &mut self,
        client: SocketAddr,
        dialled: SocketAddr,
    ) -> Result<Option<SocketAddr>, NetlinkError> {
        let flow = Flow { client, vip: dialled };
        match self.conntrack.ask(entries::GET, 0, &entries::one(flow)) {
            Ok(body) => Ok(body.and_then(|body| entry(&body, flow))),
            Err(error) if error.refusal() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same in whatever zone. The kernel looks at every entry for it: some 10 ms for 100,000.
    pub fn backend_in_any_zone(
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
    pub fn is_own_socket(&mut self, client: SocketAddr, dialled: SocketAddr) -> bool {
        let found = self.sockets.ask(sock_diag::LIST, 0, &sock_diag::one(dialled, client));
        found.ok().flatten().is_some_and(|body| sock_diag::is_connection(&body))
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
    pub fn last_ack(&mut self, own: SocketAddr, peer: SocketAddr) -> Result<Option<Duration>, NetlinkError> {
        match self.0.ask(sock_diag::LIST, 0, &sock_diag::one_with_info(own, peer)) {
            Ok(Some(body)) => sock_diag::last_ack(&body)
                .map_err(|error| NetlinkError::Malformed("the host's sockets", error)),
            Ok(None) => Ok(None),
            Err(error) if error.refusal() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Asks for the open connections of each of these virtual IPs to backends with these ports. Blocks: the kernel looks at
/// every entry for each of them, some 10 ms for 100,000. Needs CAP_NET_ADMIN.
pub fn traffic(wanted: &BTreeSet<(Vip, u16)>) -> Result<Traffic, NetlinkError> {
    let mut carried = Traffic::new(fs::read_to_string(ACCOUNTING).is_ok_and(|text| text.trim() == "1"));
    let mut channel = Channel::open(NETLINK_NETFILTER, "conntrack")?;
    for (vip, port) in wanted {
        let select = |body: &[u8]| {
            let entry = entries::entry(body).ok().flatten()?;
            let is_wanted = entry.flow.vip == *vip && entry.backend.port() == *port;
            (is_wanted && entry.state == TcpState::Open).then_some((entry.backend, entry.bytes))
        };
        let open = match channel.dump(entries::GET, &entries::dump_port(*vip, *port), select) {
            Err(error) if is_filter_unsupported(&error) => {
                channel.dump(entries::GET, &entries::dump_all(vip.ip()), select)?
            }
            open => open?,
        };
        open.into_iter().for_each(|(backend, bytes)| carried.add(*vip, backend, bytes));
    }
    Ok(carried)
}

fn entry(body: &[u8], wanted: Flow) -> Option<SocketAddr> {
    let Entry { flow, backend, .. } = entries::entry(body).ok().flatten()?;
    (flow == wanted).then_some(backend)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn last_ack_is_reported_and_ages() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_peer, _) = listener.accept().unwrap();
            let (own, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let mut kernel = OwnConnections::open().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            let before = kernel.last_ack(own, peer).unwrap().unwrap();
            assert!(before >= Duration::from_millis(250), "{any}: nothing was sent for 300 ms: {before:?}");
            stream.write_all(b"x").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let after = kernel.last_ack(own, peer).unwrap().unwrap();
            assert!(after < before, "{any}: {after:?} after {before:?}");
            assert_eq!(kernel.last_ack(peer, peer).unwrap(), None);
        }
    }
}
