//! Changes of routes, routing rules, links and addresses, as rtnetlink multicasts them.
//!
//! In: rtnetlink datagrams. Out: when to look at our routes and at the node's addresses again. An event that was lost is a
//! change, too. Each kind has a socket of its own, apart from the one for requests: where events come in floods, what is
//! lost costs no answer to a request.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::requests::{HostError, ROUTE_PROTOCOL, failed};
use crate::netlink::multicast::{Multicast, Notification};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of the kernel's `rtnetlink.h`.
const ADDRESS_GROUPS: [u32; 3] = [1, 5, 9];
/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_ROUTE`, `RTNLGRP_IPV6_RULE`.
const ROUTE_GROUPS: [u32; 4] = [7, 8, 11, 19];
/// An interface that comes up brings a burst of events.
const SETTLE: Duration = Duration::from_millis(200);
/// A socket that broke is replaced after this; the regular poll goes on meanwhile.
const REOPEN: Duration = Duration::from_secs(1);

const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
/// `sizeof(struct rtmsg)`; its second byte is the length of the destination's prefix, its sixth the protocol.
const ROUTE_HEADER_LEN: usize = 12;
/// `RTA_DST`.
const DESTINATION: u16 = 1;

/// Changes of routes and rules that may be ours.
pub(super) struct RouteEvents {
    socket: Multicast,
    /// Destinations that matter, whoever added the route.
    pub vips: BTreeSet<IpAddr>,
}

impl RouteEvents {
    pub fn open() -> Result<Self, HostError> {
        Ok(Self { socket: listen_to_routes()?, vips: BTreeSet::new() })
    }

    /// Resolves when a route or rule of ours may have changed, or when events were lost.
    pub async fn changed(&mut self) {
        let Self { socket, vips } = self;
        loop {
            match socket.receive().await {
                Ok(Notification::Datagram(datagram)) if !is_relevant(datagram, vips) => {}
                Ok(_) => return,
                Err(_) => {
                    sleep(REOPEN).await;
                    if let Ok(opened) = listen_to_routes() {
                        *socket = opened;
                        return;
                    }
                }
            }
        }
    }
}

fn listen_to_routes() -> Result<Multicast, HostError> {
    Multicast::open(NETLINK_ROUTE, ROUTE_GROUPS)
        .map_err(|e| failed("open a netlink socket to changes of routes", e))
}

/// Rules are few, so all matter; routes matter if they are ours, or have a virtual IP as their destination.
fn is_relevant(datagram: &[u8], vips: &BTreeSet<IpAddr>) -> bool {
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let found = match message.message_type() {
            NEWRULE | DELRULE => true,
            NEWROUTE | DELROUTE => is_relevant_route(message.payload(), vips),
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

fn is_relevant_route(route: &[u8], vips: &BTreeSet<IpAddr>) -> bool {
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

/// Changes of links and addresses.
pub(super) struct AddressEvents {
    changes: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl AddressEvents {
    pub fn open() -> Result<Self, HostError> {
        let mut socket = listen_to_addresses()?;
        let (changed, changes) = watch::channel(());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = socket.receive().await {
                    tracing::debug!(
                        event = %"address_events_failed", %error,
                        "Failed to receive changes of links and addresses"
                    );
                    socket = reopened().await;
                }
                sleep(SETTLE).await;
                while let Some(Ok(_)) = socket.try_receive() {}
                if changed.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { changes, task })
    }

    /// Resolves once something has changed.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for AddressEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen_to_addresses() -> Result<Multicast, HostError> {
    Multicast::open(NETLINK_ROUTE, ADDRESS_GROUPS)
        .map_err(|e| failed("open a netlink socket to changes of links and addresses", e))
}

async fn reopened() -> Multicast {
    loop {
        sleep(REOPEN).await;
        match listen_to_addresses() {
            Ok(socket) => return socket,
            Err(error) => tracing::debug!(
                event = %"address_events_unavailable", %error,
                "Cannot watch links and addresses for changes"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::route::RouteProtocol;

    use super::*;
    use crate::routes::requests::host_route;

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
    fn only_own_routes_and_routes_to_vips_are_relevant() {
        let vips = BTreeSet::from([IpAddr::from([10, 96, 0, 1])]);
        let ours = RouteProtocol::Other(ROUTE_PROTOCOL);
        assert!(is_relevant(&deleted([10, 96, 0, 9], ours), &vips));
        assert!(is_relevant(&deleted([10, 96, 0, 1], RouteProtocol::Static), &vips));
        assert!(!is_relevant(&deleted([10, 96, 0, 2], RouteProtocol::Bgp), &vips));
        let both = [deleted([10, 96, 0, 2], RouteProtocol::Bgp), deleted([10, 96, 0, 9], ours)].concat();
        assert!(is_relevant(&both, &vips));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = is_relevant(&bytes, &BTreeSet::new());
        }
    }
}
