//! Gets forged packets to clients: by a raw socket, and around the node's output policy by a packet socket.
//!
//! In: an IP packet and the address it is for. Out: it is on its way, or a [`SendError`]. Knows which addresses are the
//! node's own, since it looks every client's route up. The rtnetlink messages for that, and for the link address of the next
//! hop, stand below; the kernel's side is `include/uapi/linux/rtnetlink.h` and `neighbour.h`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{LinkAddr, MsgFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::dataplane::flows::Remaining;
use crate::netlink::channel::Channel;
use crate::netlink::message::{self, Malformed};

/// `IPPROTO_RAW`: the packet brings its own IP header.
const RAW: i32 = 255;
/// Bounds the wait for room in the socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_millis(20);
/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` have an Ethernet header; tunnels have none.
const WITH_ETHERNET: [u16; 2] = [1, 772];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// `RTM_GETROUTE`.
const GET_ROUTE: u16 = 26;
/// `RTM_NEWNEIGH`.
const NEW_NEIGHBOR: u16 = 28;
/// `RTM_GETNEIGH`.
const GET_NEIGHBOR: u16 = 30;

const RTN_LOCAL: u8 = 2;
/// `sizeof(struct rtmsg)` and `sizeof(struct ndmsg)`.
const HEADER: usize = 12;
const ROUTE_TYPE_AT: usize = 7;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A gateway of the other family: two bytes of family, then the address.
const RTA_VIA: u16 = 18;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// Not now; it may be tried again at once.
    Busy,
    /// For this reason.
    Failed(Remaining),
    /// Around the output policy only, and the next hop does not say its link address. It is being resolved.
    Unresolved,
}

/// The ways out of this network namespace.
pub(crate) struct Sender {
    raw_v4: io::Result<Socket>,
    raw_v6: io::Result<Socket>,
    packet: io::Result<Socket>,
    routes: Option<Channel>,
    routes_by_address: HashMap<IpAddr, Option<Route>>,
    links: HashMap<u32, LinkAddr>,
}

impl Sender {
    /// Opens what this process may open; for the rest see [`Sender::refusal`].
    pub(crate) fn open() -> Self {
        Self {
            raw_v4: raw(Domain::IPV4),
            raw_v6: raw(Domain::IPV6),
            packet: Socket::new(Domain::PACKET, Type::RAW, None),
            routes: Channel::open(NETLINK_ROUTE, "routes").ok(),
            routes_by_address: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Why no packet can be sent to clients of this family, if so.
    pub(crate) fn refusal(&self, of: IpAddr) -> Option<&io::Error> {
        self.raw(of).as_ref().err()
    }

    /// Forgets routes and links, which may have changed.
    pub(super) fn refresh(&mut self) {
        self.routes_by_address.clear();
        self.links.clear();
    }

    /// Whether an address is the node's own.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> bool {
        self.route(ip).is_some_and(|route| route.local)
    }

    /// Sends an IP packet to `to`, whatever source address it bears.
    pub(super) fn send(&mut self, packet: &[u8], to: IpAddr) -> Result<(), SendError> {
        let raw = self.raw(to).as_ref().map_err(|_| SendError::Failed(Remaining::NotPermitted))?;
        let Err(error) = raw.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))) else { return Ok(()) };
        match Errno::from_io_error(&error) {
            // What a rule that drops or rejects it makes of it.
            Some(Errno::PERM | Errno::CONNREFUSED) => self.send_by_link(packet, to),
            Some(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Err(SendError::Busy),
            _ => Err(SendError::Failed(Remaining::NoRoute)),
        }
    }

    fn raw(&self, of: IpAddr) -> &io::Result<Socket> {
        if of.is_ipv4() { &self.raw_v4 } else { &self.raw_v6 }
    }

    /// Hands the packet to the interface itself, where no rule of the output hooks sees it.
    fn send_by_link(&mut self, packet: &[u8], to: IpAddr) -> Result<(), SendError> {
        let blocked = SendError::Failed(Remaining::OutputPolicy);
        let route = self.route(to).ok_or(SendError::Failed(Remaining::NoRoute))?;
        let link = self.link(route.interface).ok_or(blocked)?;
        let frame = if WITH_ETHERNET.contains(&link.hatype()) {
            // A loopback device takes whatever bears the address zero.
            let destination =
                if route.local { [0; 6] } else { self.link_address(route).ok_or(SendError::Unresolved)? };
            let kind = if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            [&destination[..], &link.addr().unwrap_or_default(), &kind, packet].concat()
        } else {
            packet.to_vec()
        };
        let socket = self.packet.as_ref().map_err(|_| blocked)?;
        match nix::sys::socket::sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENOBUFS) => Err(SendError::Busy),
            Err(_) => Err(blocked),
        }
    }

    fn route(&mut self, to: IpAddr) -> Option<Route> {
        if let Some(known) = self.routes_by_address.get(&to) {
            return *known;
        }
        let answer = self.routes.as_mut()?.ask(GET_ROUTE, 0, &route_to(to)).ok().flatten();
        let route = answer.and_then(|body| parse_route(to, &body).ok().flatten());
        self.routes_by_address.insert(to, route);
        route
    }

    /// The neighbor's address. One that is not known now is being looked for, and may be known in the next round.
    fn link_address(&mut self, route: Route) -> Option<[u8; 6]> {
        let routes = self.routes.as_mut()?;
        let answer = routes.ask(GET_NEIGHBOR, 0, &neighbor_request(route)).ok().flatten();
        let known = answer.and_then(|body| parse_link_address(&body).ok().flatten());
        if known.is_none() {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            let _ = routes.ask(NEW_NEIGHBOR, flags, &resolve_request(route));
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

/// The route to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    /// It is one of this node's own.
    local: bool,
    /// Index of the interface that leads there.
    interface: u32,
    /// The router, or the address itself.
    next_hop: IpAddr,
}

/// Asks for the route to an address.
fn route_to(to: IpAddr) -> Vec<u8> {
    let (family, bits) = (message::family(to), if to.is_ipv4() { 32 } else { 128 });
    let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend(message::emit(&[message::address(RTA_DST, RTA_DST, to)]));
    body
}

/// Reads the answer to [`route_to`]. `None`: a route without an interface leads nowhere.
fn parse_route(to: IpAddr, body: &[u8]) -> Result<Option<Route>, Malformed> {
    let attrs = body.get(HEADER..).ok_or_else(|| Malformed("a truncated route".to_owned()))?;
    let gateway = match message::find(attrs, RTA_VIA)? {
        Some(via) => message::find_address(
            &message::emit(&[message::bytes(1, via.get(2..).unwrap_or_default())]),
            1,
            1,
        )?,
        None => message::find_address(attrs, RTA_GATEWAY, RTA_GATEWAY)?,
    };
    Ok(message::fixed(attrs, RTA_OIF)?.map(|index| Route {
        local: body[ROUTE_TYPE_AT] == RTN_LOCAL,
        interface: u32::from_ne_bytes(index),
        next_hop: gateway.unwrap_or(to),
    }))
}

/// Asks for the link address of a neighbor.
fn neighbor_request(route: Route) -> Vec<u8> {
    neighbor_message(route, 0)
}

/// Has the kernel resolve the link address of a neighbor, as if it had a packet for it.
fn resolve_request(route: Route) -> Vec<u8> {
    neighbor_message(route, NTF_USE)
}

fn neighbor_message(route: Route, flags: u8) -> Vec<u8> {
    let mut body = vec![message::family(route.next_hop), 0, 0, 0];
    body.extend(route.interface.to_ne_bytes());
    body.extend([0, 0, flags, 0]);
    body.extend(message::emit(&[message::address(NDA_DST, NDA_DST, route.next_hop)]));
    body
}

/// Reads the answer to [`neighbor_request`]. `None`: it is not known.
fn parse_link_address(body: &[u8]) -> Result<Option<[u8; 6]>, Malformed> {
    let attrs = body.get(HEADER..).ok_or_else(|| Malformed("a truncated neighbor entry".to_owned()))?;
    message::fixed(attrs, NDA_LLADDR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(kind: u8, attrs: &[message::Attr]) -> Vec<u8> {
        let mut body = vec![0; HEADER];
        body[ROUTE_TYPE_AT] = kind;
        body.extend(message::emit(attrs));
        body
    }

    #[test]
    fn next_hop_is_gateway_of_either_family() {
        let to: IpAddr = "10.244.0.11".parse().unwrap();
        let out = message::native32(RTA_OIF, 7);
        let direct = parse_route(to, &answer(1, std::slice::from_ref(&out))).unwrap().unwrap();
        assert_eq!(direct, Route { local: false, interface: 7, next_hop: to });
        let gateway: IpAddr = "192.0.2.254".parse().unwrap();
        let routed = [out.clone(), message::address(RTA_GATEWAY, RTA_GATEWAY, gateway)];
        assert_eq!(parse_route(to, &answer(1, &routed)).unwrap().unwrap().next_hop, gateway);
        let via = [vec![10, 0], "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()].concat();
        let other = [out, message::bytes(RTA_VIA, &via)];
        assert_eq!(
            parse_route(to, &answer(2, &other)).unwrap().unwrap().next_hop,
            "fe80::1".parse::<IpAddr>().unwrap()
        );
        assert!(parse_route(to, &answer(2, &other)).unwrap().unwrap().local);
        assert_eq!(parse_route(to, &answer(7, &[])).unwrap(), None);
    }

    #[test]
    fn neighbor_without_link_address_is_unknown() {
        assert_eq!(parse_link_address(&answer(0, &[])).unwrap(), None);
        let known = answer(0, &[message::bytes(NDA_LLADDR, &[1, 2, 3, 4, 5, 6])]);
        assert_eq!(parse_link_address(&known).unwrap(), Some([1, 2, 3, 4, 5, 6]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(input: Vec<u8>) {
            let _ = parse_route("fd00::1".parse().unwrap(), &input);
            let _ = parse_link_address(&input);
        }
    }
}
