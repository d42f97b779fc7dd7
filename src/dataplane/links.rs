//! The network devices of this namespace and the routing rules that somebody added, as far as a check needs them.
//! For looking only.

use netlink_sys::protocols::NETLINK_ROUTE;

use super::flows::attr::{AF_INET, find, fixed};
use super::flows::netlink::{Channel, Malformed, NetlinkError};

/// `RTM_GETLINK` and `RTM_GETRULE`.
const GET_LINK: u16 = 18;
const GET_RULE: u16 = 34;
/// `sizeof(struct ifinfomsg)` and `sizeof(struct fib_rule_hdr)`.
const LINK_HEADER: usize = 16;
const RULE_HEADER: usize = 12;
/// `IFLA_IFNAME`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`, `IFLA_LINK_NETNSID`, `FRA_PROTOCOL`.
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const PARENT_NAMESPACE: u16 = 37;
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
    let bodies = Channel::open(NETLINK_ROUTE, "network devices")?.dump(GET_LINK, &[0; LINK_HEADER])?;
    Ok(bodies.iter().filter_map(|body| link(body).ok().flatten()).collect())
}

/// How many IPv4 routing rules there are besides the kernel's own and those of `own`, a protocol number.
///
/// # Errors
/// The kernel cannot be asked.
pub fn foreign_rules(own: u8) -> Result<usize, NetlinkError> {
    let mut request = [0; RULE_HEADER];
    request[0] = AF_INET;
    let rules = Channel::open(NETLINK_ROUTE, "routing rules")?.dump(GET_RULE, &request)?;
    let protocol = |body: &Vec<u8>| {
        let value = find(body.get(RULE_HEADER..)?, RULE_PROTOCOL).ok()??;
        value.first().copied()
    };
    Ok(rules.iter().filter(|body| protocol(body).is_none_or(|by| by != OF_KERNEL && by != own)).count())
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

#[cfg(test)]
mod tests {
    use super::super::flows::attr::{bytes, emit, nest};
    use super::*;

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

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(input: Vec<u8>) {
            let _ = link(&input);
        }
    }
}
