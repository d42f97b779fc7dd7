//! The network devices and addresses of this namespace and the routing rules that somebody added, as far as a check
//! needs them.
//! For looking only.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::channel::{Channel, NetlinkError};
use crate::netlink::message::{AF_INET, Malformed, find, fixed};

/// `RTM_GETLINK`, `RTM_GETADDR` and `RTM_GETRULE`.
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_RULE: u16 = 34;
/// `sizeof(struct ifinfomsg)`, `sizeof(struct ifaddrmsg)` and `sizeof(struct fib_rule_hdr)`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const RULE_HEADER: usize = 12;
/// `IFLA_IFNAME`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`, `IFLA_LINK_NETNSID`, `FRA_PROTOCOL`.
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const PARENT_NAMESPACE: u16 = 37;
/// `IFA_ADDRESS`, which is the peer's on a link between two, and `IFA_LOCAL`. IPv6 has the former only.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// `RT_SCOPE_LINK`: addresses of this scope, or of a narrower one, mean something else elsewhere.
const SCOPE_LINK: u8 = 253;
const RULE_PROTOCOL: u16 = 21;
/// `RTPROT_KERNEL`: the rules to the tables local, main and default.
const OF_KERNEL: u8 = 2;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenLink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// `veth`, `macvlan`, `bridge`…; empty for hardware and loopback.
    pub kind: String,
    /// The number of the network namespace that its parent is in, if that is another one.
    pub parent: Option<i32>,
}

/// Every device.
///
/// # Errors
/// The kernel cannot be asked.
pub fn links() -> Result<Vec<SeenLink>, NetlinkError> {
    let mut channel = Channel::open(NETLINK_ROUTE, "network devices")?;
    channel.dump(GET_LINK, &[0; LINK_HEADER], |body| link(body).ok().flatten())
}

/// An address of this namespace by which others may reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAddress {
    /// The address.
    pub ip: IpAddr,
    /// The index of its device.
    pub device: u32,
}

/// Every address but those of loopback and of a single link.
///
/// # Errors
/// The kernel cannot be asked.
pub fn addresses() -> Result<Vec<SeenAddress>, NetlinkError> {
    let mut channel = Channel::open(NETLINK_ROUTE, "addresses")?;
    channel.dump(GET_ADDRESS, &[0; ADDRESS_HEADER], |body| address(body).ok().flatten())
}

/// How many IPv4 routing rules there are besides the kernel's own and those of `own`, a protocol number.
///
/// # Errors
/// The kernel cannot be asked.
pub fn foreign_rules(own: u8) -> Result<usize, NetlinkError> {
    let mut request = [0; RULE_HEADER];
    request[0] = AF_INET;
    let protocol = |body: &[u8]| {
        let value = find(body.get(RULE_HEADER..)?, RULE_PROTOCOL).ok()??;
        value.first().copied()
    };
    let is_foreign = |body: &[u8]| protocol(body).is_none_or(|by| by != OF_KERNEL && by != own);
    let mut channel = Channel::open(NETLINK_ROUTE, "routing rules")?;
    Ok(channel.dump(GET_RULE, &request, |body| is_foreign(body).then_some(()))?.len())
}

fn link(body: &[u8]) -> Result<Option<SeenLink>, Malformed> {
    let Some((header, attrs)) = body.split_at_checked(LINK_HEADER) else { return Ok(None) };
    let text = |value: &[u8]| {
        String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    };
    let kind = match find(attrs, INFO)? {
        Some(info) => find(info, INFO_KIND)?.map(text),
        None => None,
    };
    let name = find(attrs, NAME)?.map(text).unwrap_or_default();
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let parent = fixed(attrs, PARENT_NAMESPACE)?.map(i32::from_ne_bytes);
    Ok(Some(SeenLink { name, index, kind: kind.unwrap_or_default(), parent }))
}

fn address(body: &[u8]) -> Result<Option<SeenAddress>, Malformed> {
    let Some((header, attrs)) = body.split_at_checked(ADDRESS_HEADER) else { return Ok(None) };
    let own = match find(attrs, LOCAL)? {
        Some(own) => Some(own),
        None => find(attrs, ADDRESS)?,
    };
    let ip = own.and_then(|bytes| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    });
    let device = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let is_global = header[3] < SCOPE_LINK;
    Ok(ip.filter(|ip| is_global && !ip.is_loopback()).map(|ip| SeenAddress { ip, device }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::{bytes, emit, nest};

    #[test]
    fn a_device_is_read_with_its_kind() {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&7u32.to_ne_bytes());
        body.extend(emit(&[bytes(NAME, b"mv0\0"), nest(INFO, &[bytes(INFO_KIND, b"macvlan\0")])]));
        body.extend(emit(&[bytes(PARENT_NAMESPACE, &3i32.to_ne_bytes())]));
        let read = link(&body).unwrap().unwrap();
        let (name, kind) = ("mv0".to_owned(), "macvlan".to_owned());
        assert_eq!(read, SeenLink { name, index: 7, kind, parent: Some(3) });
        assert!(links().unwrap().iter().any(|link| link.name == "lo"));
    }

    #[test]
    fn an_address_is_the_nodes_own() {
        let read = |scope: u8, attrs: &[u8]| {
            let mut body = vec![2, 32, 0, scope, 7, 0, 0, 0];
            body[4..].copy_from_slice(&7u32.to_ne_bytes());
            body.extend(attrs);
            address(&body).unwrap()
        };
        let both = emit(&[bytes(ADDRESS, &[192, 0, 2, 9]), bytes(LOCAL, &[192, 0, 2, 1])]);
        assert_eq!(read(0, &both), Some(SeenAddress { ip: "192.0.2.1".parse().unwrap(), device: 7 }));
        assert_eq!((read(SCOPE_LINK, &both), read(254, &both)), (None, None));
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        let IpAddr::V6(v6) = ip else { unreachable!() };
        assert_eq!(read(0, &emit(&[bytes(ADDRESS, &v6.octets())])).map(|seen| seen.ip), Some(ip));
        assert_eq!(read(0, &emit(&[bytes(ADDRESS, &[127, 0, 0, 1])])), None);
        assert!(addresses().unwrap().iter().all(|seen| !seen.ip.is_loopback()));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(input: Vec<u8>) {
            let _ = address(&input);
            let _ = link(&input);
        }
    }
}
