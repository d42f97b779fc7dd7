//! Addresses: which ones may be virtual IPs and which may be backends, address ranges, interface names and seeds. Pure.
//!
//! A wrong backend in the table would loop traffic or break the node, so each address is validated by itself and an
//! invalid one never affects the others.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::{self, FromStr};

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
            Self::IsVip => "is the virtual IP itself, which would create a loop",
            Self::Unspecified => "is the unspecified address",
            Self::Loopback => "is a loopback address; --allow-loopback-endpoints accepts it",
            Self::LinkLocal => "is a link-local address",
            Self::Multicast => "is a multicast address",
            Self::Reserved => "is the broadcast address",
            Self::MappedIpv4 => "is an IPv4 address written as IPv6",
            Self::WrongFamily => "is not of the address family of its EndpointSlice",
            Self::NotAnIpSlice => "is in an EndpointSlice whose addressType is neither IPv4 nor IPv6",
            Self::NotAnAddress => "is not an IP address",
            Self::PortZero => "has port 0, which accepts no connections",
            Self::PortOutOfRange => "is not a TCP port (1 to 65535)",
            Self::NoPort => "has no port number",
            Self::UnknownPort => {
                "is in an EndpointSlice without a TCP port that has the name of a port of the Service"
            }
            Self::TooMany => "exceeds the limit of 64 backends for each virtual IP, or of 32 virtual IPs and ports for the Service",
        })
    }
}

/// Validates the address of a backend. `family` is what its slice says, if it is in a slice.
pub fn validate_backend(
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

/// Validates a ClusterIP.
pub fn validate_vip(text: &str) -> Result<IpAddr, RejectReason> {
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

/// A range of addresses. The host bits of `address` are zero and the prefix is at least one bit long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `ADDRESS/LENGTH`.
    #[error("expected ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/56")]
    Syntax,
    /// The prefix is too long for the family.
    #[error("a prefix of {0} bits does not fit the address family")]
    TooLong(u8),
    /// `/0` is every address, so that nothing would be outside.
    #[error("a prefix of 0 bits matches every address")]
    Everything,
}

impl Cidr {
    /// The first address of the range.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that all addresses of the range share: 1 to 32 or 1 to 128.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether the range is one address.
    pub fn is_single(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The first address that a host can have: the one behind [`Self::address`]. `None` for a range of one address.
    pub fn first_host(&self) -> Option<IpAddr> {
        (!self.is_single()).then_some(match self.address {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) + 1)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) + 1)),
        })
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && masked(ip, self.prefix_len) == self.address
    }

    /// The range's address family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').ok_or(CidrError::Syntax)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Syntax)?;
        let prefix_len: u8 = len.parse().map_err(|_| CidrError::Syntax)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > max {
            return Err(CidrError::TooLong(prefix_len));
        }
        if prefix_len == 0 {
            return Err(CidrError::Everything);
        }
        Ok(Self { address: masked(address, prefix_len), prefix_len })
    }
}

/// Clears the host bits. The prefix is at least one bit long and fits the family.
fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & (u32::MAX << (32 - prefix_len)))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << (128 - prefix_len)))),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// `IFNAMSIZ`: the kernel's size of a name, with the zero byte that ends it.
const IFNAMSIZ: usize = 16;

/// A name that nft can print and read: no quote, no blank, no star at its end, which would mean a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName([u8; IFNAMSIZ]);

impl InterfaceName {
    /// `None`: no interface has such a name, or nft could not write it down.
    pub fn new(name: &str) -> Option<Self> {
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'/' | b'\\'));
        if name.is_empty() || name.len() >= IFNAMSIZ || !is_plain || name.ends_with('*') {
            return None;
        }
        let mut bytes = [0; IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The name, filled up with zeros.
    pub fn bytes(&self) -> [u8; IFNAMSIZ] {
        self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(IFNAMSIZ);
        f.write_str(str::from_utf8(&self.0[..end]).unwrap_or_default())
    }
}

/// An address, or a DNS name that stands for addresses, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    host: String,
    port: u16,
}

/// A text that is not a [`Seed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ADDRESS:PORT or NAME:PORT, such as 192.0.2.11:6443, [2001:db8::11]:6443 or api.example.com:6443"
)]
pub struct SeedError;

impl Seed {
    /// The DNS name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, unless it is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let (host, port) = text.rsplit_once(':').ok_or(SeedError)?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(SeedError)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(inner) => inner.and_then(|ip| ip.parse::<Ipv6Addr>().ok()).map(|ip| ip.to_string()),
            None => is_ipv4_or_name(host).then(|| host.to_ascii_lowercase()),
        };
        Ok(Self { host: host.ok_or(SeedError)?, port })
    }
}

/// RFC 1123. A last label of digits would be taken for a part of an IPv4 address by the resolver.
fn is_ipv4_or_name(text: &str) -> bool {
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && !numeric
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_host_is_taken_and_what_cannot_is_refused() {
        let none = BTreeSet::new();
        let judged = |text: &str| validate_backend(text, None, &none, false).map(|_| ());
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

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!("10.244.7.9/14".parse::<Cidr>().unwrap().to_string(), "10.244.0.0/14");
        assert_eq!("fd00:10:245::5/47".parse::<Cidr>().unwrap().to_string(), "fd00:10:244::/47");
        assert_eq!("192.0.2.1/32".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn a_range_knows_its_first_host_and_what_lies_in_it() {
        let range: Cidr = "10.96.0.0/12".parse().unwrap();
        assert_eq!(range.first_host(), Some([10, 96, 0, 1].into()));
        assert!(range.contains([10, 111, 255, 255].into()) && !range.contains([10, 112, 0, 0].into()));
        let six: Cidr = "fd00:10:96::/108".parse().unwrap();
        assert_eq!(six.first_host(), Some("fd00:10:96::1".parse().unwrap()));
        assert!(!six.contains([10, 96, 0, 1].into()));
        assert_eq!("10.96.0.1/32".parse::<Cidr>().unwrap().first_host(), None);
    }

    #[test]
    fn bad_ranges_say_why() {
        assert_eq!("10.244.0.0".parse::<Cidr>(), Err(CidrError::Syntax));
        assert_eq!("10.244.0.0/33".parse::<Cidr>(), Err(CidrError::TooLong(33)));
        assert_eq!("::/129".parse::<Cidr>(), Err(CidrError::TooLong(129)));
        assert_eq!("0.0.0.0/0".parse::<Cidr>(), Err(CidrError::Everything));
        assert_eq!("10.244.0.0/-1".parse::<Cidr>(), Err(CidrError::Syntax));
    }

    #[test]
    fn names_read_back_and_those_that_rules_cannot_hold_are_refused() {
        for name in ["eth0", "bond0.100", "wg-apiserver-15"] {
            assert_eq!(InterfaceName::new(name).map(|name| name.to_string()).as_deref(), Some(name));
        }
        for name in ["", "a\"b", "a b", "eth*", "sixteen-bytes-xx", "a/b", "\u{e9}th0"] {
            assert_eq!(InterfaceName::new(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_and_names_are_seeds() {
        for text in
            ["192.0.2.11:6443", "[2001:db8::11]:6443", "api.example.com:443", "localhost:1", "a-b_c:65535"]
        {
            let seed: Seed = text.parse().unwrap();
            assert_eq!(seed.to_string(), text);
            assert_eq!(seed.address().is_some(), text.starts_with(['1', '[']), "{text}");
        }
        assert_eq!("API.Example.com.:443".parse::<Seed>().unwrap().to_string(), "api.example.com.:443");
    }

    #[test]
    fn invalid_seeds_are_rejected() {
        let long = format!("{}:443", "a.".repeat(127) + "abcd");
        for bad in [
            "",
            "192.0.2.11",
            "api.example.com",
            "192.0.2.11:0",
            "192.0.2.11:65536",
            "192.0.2.11:x",
            ":6443",
            "2001:db8::11:6443",
            "[192.0.2.11]:6443",
            "[2001:db8::11:6443",
            "192.0.2:6443",
            "256.1.1.1:1",
            "a..b:1",
            "-a:1",
            "a b:1",
            "https://a:1",
            &long,
        ] {
            assert_eq!(bad.parse::<Seed>(), Err(SeedError), "{bad:?}");
        }
    }
}
