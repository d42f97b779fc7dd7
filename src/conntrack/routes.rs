//! rtnetlink messages: which way a client lies, and the link address of the next hop. Pure.
//!
//! In: an address, or a message body. Out: a message body, or a [`Way`]. The kernel's side is
//! `include/uapi/linux/rtnetlink.h` and `neighbour.h`.

use std::net::IpAddr;

use super::attr;
use crate::netlink::netlink::Malformed;

/// `RTM_GETROUTE`.
pub(super) const GET_ROUTE: u16 = 26;
/// `RTM_NEWNEIGH`.
pub(super) const NEW_NEIGHBOUR: u16 = 28;
/// `RTM_GETNEIGH`.
pub(super) const GET_NEIGHBOUR: u16 = 30;

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

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// It is one of this node's own.
    pub(super) local: bool,
    /// Index of the interface that leads there.
    pub(super) interface: u32,
    /// The router, or the address itself.
    pub(super) next_hop: IpAddr,
}

/// Asks for the route to an address.
pub(super) fn route_to(to: IpAddr) -> Vec<u8> {
    let (family, bits) = (attr::family(to), if to.is_ipv4() { 32 } else { 128 });
    let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend(attr::emit(&[attr::address(RTA_DST, RTA_DST, to)]));
    body
}

/// Reads the answer to [`route_to`]. `None`: a route without an interface leads nowhere.
pub(super) fn way(to: IpAddr, body: &[u8]) -> Result<Option<Way>, Malformed> {
    let attrs = body.get(HEADER..).ok_or_else(|| Malformed("a route that is cut short".to_owned()))?;
    let gateway = match attr::find(attrs, RTA_VIA)? {
        Some(via) => {
            attr::find_address(&attr::emit(&[attr::bytes(1, via.get(2..).unwrap_or_default())]), 1, 1)?
        }
        None => attr::find_address(attrs, RTA_GATEWAY, RTA_GATEWAY)?,
    };
    Ok(attr::fixed(attrs, RTA_OIF)?.map(|index| Way {
        local: body[ROUTE_TYPE_AT] == RTN_LOCAL,
        interface: u32::from_ne_bytes(index),
        next_hop: gateway.unwrap_or(to),
    }))
}

/// Asks for the link address of a neighbour.
pub(super) fn neighbour(way: Way) -> Vec<u8> {
    neighbour_message(way, 0)
}

/// Has the kernel resolve the link address of a neighbour, as if it had a packet for it.
pub(super) fn resolve(way: Way) -> Vec<u8> {
    neighbour_message(way, NTF_USE)
}

fn neighbour_message(way: Way, flags: u8) -> Vec<u8> {
    let mut body = vec![attr::family(way.next_hop), 0, 0, 0];
    body.extend(way.interface.to_ne_bytes());
    body.extend([0, 0, flags, 0]);
    body.extend(attr::emit(&[attr::address(NDA_DST, NDA_DST, way.next_hop)]));
    body
}

/// Reads the answer to [`neighbour`]. `None`: it is not known.
pub(super) fn link_address(body: &[u8]) -> Result<Option<[u8; 6]>, Malformed> {
    let attrs = body.get(HEADER..).ok_or_else(|| Malformed("a neighbour that is cut short".to_owned()))?;
    attr::fixed(attrs, NDA_LLADDR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(kind: u8, attrs: &[attr::Attr]) -> Vec<u8> {
        let mut body = vec![0; HEADER];
        body[ROUTE_TYPE_AT] = kind;
        body.extend(attr::emit(attrs));
        body
    }

    #[test]
    fn the_next_hop_is_the_gateway_of_either_family() {
        let to: IpAddr = "10.244.0.11".parse().unwrap();
        let out = attr::native32(RTA_OIF, 7);
        let direct = way(to, &answer(1, std::slice::from_ref(&out))).unwrap().unwrap();
        assert_eq!(direct, Way { local: false, interface: 7, next_hop: to });
        let gateway: IpAddr = "192.0.2.254".parse().unwrap();
        let routed = [out.clone(), attr::address(RTA_GATEWAY, RTA_GATEWAY, gateway)];
        assert_eq!(way(to, &answer(1, &routed)).unwrap().unwrap().next_hop, gateway);
        let via = [vec![10, 0], "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()].concat();
        let other = [out, attr::bytes(RTA_VIA, &via)];
        assert_eq!(
            way(to, &answer(2, &other)).unwrap().unwrap().next_hop,
            "fe80::1".parse::<IpAddr>().unwrap()
        );
        assert!(way(to, &answer(2, &other)).unwrap().unwrap().local);
        assert_eq!(way(to, &answer(7, &[])).unwrap(), None);
    }

    #[test]
    fn a_neighbour_without_link_address_is_unknown() {
        assert_eq!(link_address(&answer(0, &[])).unwrap(), None);
        let known = answer(0, &[attr::bytes(NDA_LLADDR, &[1, 2, 3, 4, 5, 6])]);
        assert_eq!(link_address(&known).unwrap(), Some([1, 2, 3, 4, 5, 6]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(input: Vec<u8>) {
            let _ = way("fd00::1".parse().unwrap(), &input);
            let _ = link_address(&input);
        }
    }
}
