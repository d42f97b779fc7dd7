//! Which addresses may be virtual IPs and which may be backends.
//!
//! A wrong backend in the table would loop traffic or break the node, so each address is judged by itself and a
//! bad one never takes its neighbours along.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::types::Family;

/// Why an address or port was left out. The closed set of values of the metric's label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Traffic to the virtual IP would be sent to the virtual IP.
    IsVip,
    /// 0.0.0.0 or ::.
    Unspecified,
    /// 127.0.0.0/8 or ::1: every node would reach itself.
    Loopback,
    /// 169.254.0.0/16 or fe80::/10: means another host on every link.
    LinkLocal,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// 255.255.255.255. The rest of 240.0.0.0/4 is routed like any other address, and some networks use it.
    Reserved,
    /// An IPv4 address written as IPv6 (::ffff:0:0/96): no packet carries it.
    MappedIpv4,
    /// An address of the other family than its slice says.
    WrongFamily,
    /// The slice holds DNS names.
    NotAnIpSlice,
    /// Not an IP address at all.
    NotAnAddress,
    /// Port 0.
    PortZero,
    /// Not within 1 to 65535.
    PortOutOfRange,
    /// The port is absent, which means every port.
    NoPort,
    /// None of its slice's ports has the name of a port of the Service.
    UnknownPort,
    /// More than a virtual IP is programmed with.
    TooMany,
}

impl RejectReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::IsVip,
        Self::Unspecified,
        Self::Loopback,
        Self::LinkLocal,
        Self::Multicast,
        Self::Reserved,
        Self::MappedIpv4,
        Self::WrongFamily,
        Self::NotAnIpSlice,
        Self::NotAnAddress,
        Self::PortZero,
        Self::PortOutOfRange,
        Self::NoPort,
        Self::UnknownPort,
        Self::TooMany,
    ];

    /// The value of a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::IsVip => "is_vip",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::MappedIpv4 => "mapped_ipv4",
            Self::WrongFamily => "wrong_family",
            Self::NotAnIpSlice => "not_an_ip_slice",
            Self::NotAnAddress => "not_an_address",
            Self::PortZero => "port_zero",
            Self::PortOutOfRange => "port_out_of_range",
            Self::NoPort => "no_port",
            Self::UnknownPort => "unknown_port",
            Self::TooMany => "too_many",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IsVip => "is the virtual IP itself, which would loop",
            Self::Unspecified => "is the unspecified address",
            Self::Loopback => "is a loopback address (--allow-loopback-endpoints accepts it)",
            Self::LinkLocal => "is a link-local address",
            Self::Multicast => "is a multicast address",
            Self::Reserved => "is the broadcast address",
            Self::MappedIpv4 => "is an IPv4 address written as IPv6",
            Self::WrongFamily => "is not of its slice's address family",
            Self::NotAnIpSlice => "is in a slice whose addressType is neither IPv4 nor IPv6",
            Self::NotAnAddress => "is not an IP address",
            Self::PortZero => "port 0 cannot be connected to",
            Self::PortOutOfRange => "is not a TCP port (1 to 65535)",
            Self::NoPort => "has no port number",
            Self::UnknownPort => {
                "is in a slice none of whose TCP ports has the name of a port of the Service"
            }
            Self::TooMany => "is one too many; a virtual IP gets at most 64 backends and a Service 32 virtual IPs and ports",
        })
    }
}

/// Judges the address of a backend. `family` is what its slice says, if it is in a slice.
pub fn backend(
    text: &str,
    family: Option<Family>,
    vips: &BTreeSet<IpAddr>,
    allow_loopback: bool,
) -> Result<IpAddr, RejectReason> {
    let ip: IpAddr = text.parse().map_err(|_| RejectReason::NotAnAddress)?;
    if family.is_some_and(|family| family != Family::of(ip)) {
        return Err(RejectReason::WrongFamily);
    }
    if vips.contains(&ip) {
        return Err(RejectReason::IsVip);
    }
    match unusable(ip) {
        Some(RejectReason::Loopback) if allow_loopback => Ok(ip),
        Some(reason) => Err(reason),
        None => Ok(ip),
    }
}

/// Judges a ClusterIP.
pub fn vip(text: &str) -> Result<IpAddr, RejectReason> {
    let ip: IpAddr = text.parse().map_err(|_| RejectReason::NotAnAddress)?;
    unusable(ip).map_or(Ok(ip), Err)
}

/// Why no unicast connection to another host can have this address, if so (RFC 6890, RFC 4291).
fn unusable(ip: IpAddr) -> Option<RejectReason> {
    if ip.is_unspecified() {
        return Some(RejectReason::Unspecified);
    }
    if ip.is_loopback() {
        return Some(RejectReason::Loopback);
    }
    if ip.is_multicast() {
        return Some(RejectReason::Multicast);
    }
    match ip {
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some(RejectReason::Unspecified),
        IpAddr::V4(ip) if ip.is_link_local() => Some(RejectReason::LinkLocal),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(RejectReason::Reserved),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some(RejectReason::MappedIpv4),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(RejectReason::LinkLocal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_host_is_taken_and_what_cannot_is_refused() {
        let none = BTreeSet::new();
        let judged = |text: &str| backend(text, None, &none, false).map(|_| ());
        for good in ["192.0.2.11", "240.0.0.1", "255.255.255.254", "2001:db8::11", "fd00::1"] {
            assert_eq!(judged(good), Ok(()), "{good}");
        }
        let bad = [
            ("0.0.0.0", RejectReason::Unspecified),
            ("0.1.2.3", RejectReason::Unspecified),
            ("::", RejectReason::Unspecified),
            ("127.0.0.1", RejectReason::Loopback),
            ("::1", RejectReason::Loopback),
            ("169.254.1.1", RejectReason::LinkLocal),
            ("fe80::1", RejectReason::LinkLocal),
            ("239.255.255.255", RejectReason::Multicast),
            ("ff02::1", RejectReason::Multicast),
            ("255.255.255.255", RejectReason::Reserved),
            ("::ffff:192.0.2.11", RejectReason::MappedIpv4),
            ("192.0.2.011", RejectReason::NotAnAddress),
        ];
        for (text, reason) in bad {
            assert_eq!(judged(text), Err(reason), "{text}");
        }
    }
}
