//! Gets forged packets to clients: by a raw socket, and around the node's output policy by a packet socket.
//!
//! In: an IP packet and the address it is for. Out: it is on its way, or a [`NotSent`]. Knows which addresses are the
//! node's own, since it looks every client's route up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{LinkAddr, MsgFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::report::Remaining;
use super::routes::{self, Way};
use crate::netlink::netlink::Channel;

/// `IPPROTO_RAW`: the packet brings its own IP header.
const RAW: i32 = 255;
/// Bounds the wait for room in the socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_millis(20);
/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` have an Ethernet header; tunnels have none.
const WITH_ETHERNET: [u16; 2] = [1, 772];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENOBUFS: i32 = 105;
const ECONNREFUSED: i32 = 111;

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// Not now; it may be tried again at once.
    Busy,
    /// For this reason.
    Failed(Remaining),
    /// Around the output policy only, and the next hop does not say its link address. It is being asked for.
    Unresolved,
}

/// The ways out of this network namespace.
pub(super) struct Sender {
    raw_v4: io::Result<Socket>,
    raw_v6: io::Result<Socket>,
    packet: io::Result<Socket>,
    routes: Option<Channel>,
    ways: HashMap<IpAddr, Option<Way>>,
    links: HashMap<u32, LinkAddr>,
}

impl Sender {
    /// Opens what this process may open; what it may not is told by [`Sender::refusal`].
    pub(super) fn open() -> Self {
        Self {
            raw_v4: raw(Domain::IPV4),
            raw_v6: raw(Domain::IPV6),
            packet: Socket::new(Domain::PACKET, Type::RAW, None),
            routes: Channel::open(NETLINK_ROUTE, "routes").ok(),
            ways: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Why no packet can be sent to clients of this family, if so.
    pub(super) fn refusal(&self, of: IpAddr) -> Option<&io::Error> {
        self.raw(of).as_ref().err()
    }

    /// Forgets routes and links, which may have changed.
    pub(super) fn refresh(&mut self) {
        self.ways.clear();
        self.links.clear();
    }

    /// Whether an address is the node's own.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> bool {
        self.way(ip).is_some_and(|way| way.local)
    }

    /// Sends an IP packet to `to`, whatever source address it bears.
    pub(super) fn send(&mut self, packet: &[u8], to: IpAddr) -> Result<(), NotSent> {
        let raw = self.raw(to).as_ref().map_err(|_| NotSent::Failed(Remaining::NotPermitted))?;
        let Err(error) = raw.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))) else { return Ok(()) };
        match error.raw_os_error() {
            // What a rule that drops or rejects it makes of it.
            Some(EPERM | ECONNREFUSED) => self.send_by_link(packet, to),
            Some(EAGAIN | EINTR | ENOBUFS | ENOMEM) => Err(NotSent::Busy),
            _ => Err(NotSent::Failed(Remaining::NoRoute)),
        }
    }

    fn raw(&self, of: IpAddr) -> &io::Result<Socket> {
        if of.is_ipv4() { &self.raw_v4 } else { &self.raw_v6 }
    }

    /// Hands the packet to the interface itself, where no rule of the output hooks sees it.
    fn send_by_link(&mut self, packet: &[u8], to: IpAddr) -> Result<(), NotSent> {
        let blocked = NotSent::Failed(Remaining::OutputPolicy);
        let way = self.way(to).ok_or(NotSent::Failed(Remaining::NoRoute))?;
        let link = self.link(way.interface).ok_or(blocked)?;
        let frame = if WITH_ETHERNET.contains(&link.hatype()) {
            // A loopback device takes whatever bears the address zero.
            let destination =
                if way.local { [0; 6] } else { self.link_address(way).ok_or(NotSent::Unresolved)? };
            let kind = if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            [&destination[..], &link.addr().unwrap_or_default(), &kind, packet].concat()
        } else {
            packet.to_vec()
        };
        let socket = self.packet.as_ref().map_err(|_| blocked)?;
        match nix::sys::socket::sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENOBUFS) => Err(NotSent::Busy),
            Err(_) => Err(blocked),
        }
    }

    fn way(&mut self, to: IpAddr) -> Option<Way> {
        if let Some(known) = self.ways.get(&to) {
            return *known;
        }
        let answer = self.routes.as_mut()?.ask(routes::GET_ROUTE, 0, &routes::route_to(to)).ok().flatten();
        let way = answer.and_then(|body| routes::way(to, &body).ok().flatten());
        self.ways.insert(to, way);
        way
    }

    /// The neighbour's address. One that is not known now is being looked for, and may be known in the next round.
    fn link_address(&mut self, way: Way) -> Option<[u8; 6]> {
        let routes = self.routes.as_mut()?;
        let answer = routes.ask(routes::GET_NEIGHBOUR, 0, &routes::neighbour(way)).ok().flatten();
        let known = answer.and_then(|body| routes::link_address(&body).ok().flatten());
        if known.is_none() {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            let _ = routes.ask(routes::NEW_NEIGHBOUR, flags, &routes::resolve(way));
        }
        known
    }

    fn link(&mut self, index: u32) -> Option<LinkAddr> {
        if !self.links.contains_key(&index) {
            let all = nix::ifaddrs::getifaddrs().ok()?;
            let links = all.filter_map(|one| one.address.and_then(|address| address.as_link_addr().copied()));
            self.links = links.filter_map(|link| Some((u32::try_from(link.ifindex()).ok()?, link))).collect();
        }
        self.links.get(&index).copied()
    }
}

fn raw(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}
