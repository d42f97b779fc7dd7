//! Tells when somebody touches a route or rule that may be ours, from what the kernel tells everybody.
//!
//! In: rtnetlink datagrams. Out: whether one of them is worth a look at our routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::time::sleep;

use super::events::REOPEN;
use super::{HostError, ROUTE_PROTOCOL, failed};
use crate::netlink::multicast::{Multicast, Notification};

/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_ROUTE`, `RTNLGRP_IPV6_RULE` of the kernel's `rtnetlink.h`.
const GROUPS: [u32; 4] = [7, 8, 11, 19];
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
/// `sizeof(struct rtmsg)`; its second byte is the length of the destination's prefix, its sixth the protocol.
const ROUTE_HEADER_LEN: usize = 12;
/// `RTA_DST`.
const DESTINATION: u16 = 1;

/// Listens on a socket of its own: where routes come in floods, what is lost here costs no answer elsewhere.
pub(super) struct OwnRoutes {
    socket: Multicast,
    /// Destinations that concern us, whosever the route is.
    pub vips: BTreeSet<IpAddr>,
}

impl OwnRoutes {
    pub fn open() -> Result<Self, HostError> {
        Ok(Self { socket: listen()?, vips: BTreeSet::new() })
    }

    /// Resolves when something of ours may have changed, or that cannot be known.
    pub async fn touched(&mut self) {
        let Self { socket, vips } = self;
        loop {
            match socket.receive().await {
                Ok(Notification::Datagram(datagram)) if !concerns(datagram, vips) => {}
                Ok(_) => return,
                Err(_) => {
                    // The regular look remains meanwhile.
                    sleep(REOPEN).await;
                    if let Ok(opened) = listen() {
                        *socket = opened;
                        return;
                    }
                }
            }
        }
    }
}

fn listen() -> Result<Multicast, HostError> {
    Multicast::open(NETLINK_ROUTE, GROUPS)
        .map_err(|e| failed("open a netlink socket to changes of routes", e))
}

/// Rules are few; routes concern us if they are ours, or have a virtual IP as their destination.
fn concerns(datagram: &[u8], vips: &BTreeSet<IpAddr>) -> bool {
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let found = match message.message_type() {
            NEWRULE | DELRULE => true,
            NEWROUTE | DELROUTE => is_ours(message.payload(), vips),
            _ => false,
        };
        if found {
            return true;
        }
        let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
        rest = len.checked_next_multiple_of(4).and_then(|len| rest.get(len..)).unwrap_or_default();
    }
    false
}

fn is_ours(route: &[u8], vips: &BTreeSet<IpAddr>) -> bool {
    let Some((header, attrs)) = route.split_at_checked(ROUTE_HEADER_LEN) else { return false };
    let (len, protocol) = (header[1], header[5]);
    if protocol == ROUTE_PROTOCOL {
        return true;
    }
    let destination = NlasIterator::new(attrs).map_while(Result::ok).find_map(|attr: NlaBuffer<&[u8]>| {
        let value = (attr.kind() == DESTINATION).then(|| attr.value())?;
        match value.len() {
            4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        }
    });
    destination.is_some_and(|ip| vips.contains(&ip) && len == if ip.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::route::RouteProtocol;

    use super::super::host_route;
    use super::*;

    fn deleted(to: [u8; 4], protocol: RouteProtocol) -> Vec<u8> {
        let route = host_route(to.into()).unwrap().protocol(protocol).build();
        let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn only_what_may_be_ours_is_worth_a_look() {
        let vips = BTreeSet::from([IpAddr::from([10, 96, 0, 1])]);
        let ours = RouteProtocol::Other(ROUTE_PROTOCOL);
        assert!(concerns(&deleted([10, 96, 0, 9], ours), &vips));
        assert!(concerns(&deleted([10, 96, 0, 1], RouteProtocol::Static), &vips));
        assert!(!concerns(&deleted([10, 96, 0, 2], RouteProtocol::Bgp), &vips));
        let both = [deleted([10, 96, 0, 2], RouteProtocol::Bgp), deleted([10, 96, 0, 9], ours)].concat();
        assert!(concerns(&both, &vips));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = concerns(&bytes, &BTreeSet::new());
        }
    }
}
