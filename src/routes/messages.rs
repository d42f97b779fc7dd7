//! The route messages that are sent, and what is read from those that come back. Values only: nothing is sent here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{HostError, ROUTE_PROTOCOL, invalid};
use crate::model::types::Family;

pub(crate) fn host_route(to: IpAddr) -> Result<RouteMessageBuilder<IpAddr>, HostError> {
    let len = if to.is_ipv4() { 32 } else { 128 };
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, len).map_err(|e| invalid(to, &e))
}

/// The kernel refuses a lookup with any of the fields that a route has besides.
pub(super) fn lookup_request(to: IpAddr) -> Result<RouteMessage, HostError> {
    let mut request = host_route(to)?.build();
    request.header.table = 0;
    request.header.protocol = RouteProtocol::Unspec;
    request.header.scope = RouteScope::Universe;
    request.header.kind = RouteType::Unspec;
    Ok(request)
}

/// The same of packets that carry this source address already.
pub(super) fn lookup_from(to: IpAddr, from: IpAddr) -> Result<RouteMessage, HostError> {
    let mut request = lookup_request(to)?;
    request.header.source_prefix_length = if from.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Source(from.into()));
    Ok(request)
}

/// The next hop, where it is another one than the destination.
pub(super) fn gateway(route: &RouteMessage) -> Option<RouteAddress> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(address) => Some(address.clone()),
        _ => None,
    })
}

/// Only our own routes, of every table; a kernel before 4.20 ignores the filter and lists all.
pub(super) fn dump_request(family: Family) -> RouteMessage {
    let own = RouteProtocol::Other(ROUTE_PROTOCOL);
    let mut request = match family {
        Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().protocol(own).build(),
        Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().protocol(own).build(),
    };
    request.header.table = 0;
    request.header.scope = RouteScope::Universe;
    request.header.kind = RouteType::Unspec;
    request
}

pub(crate) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

pub(crate) fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

pub(crate) fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(super) fn same(ours: &RouteMessage, wanted: &RouteMessage) -> bool {
    preferred_source(ours) == preferred_source(wanted) && output_interface(ours) == output_interface(wanted)
}
