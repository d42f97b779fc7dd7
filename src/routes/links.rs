//! Network devices, addresses and foreign routing rules of this network namespace, and the macvlan and ipvlan devices in
//! other namespaces of the node whose parent is here: those are made here and moved into a Pod, where they cannot be seen
//! from this namespace. Read-only, for checks.
//!
//! In: nothing. Out: what was found. Other namespaces are entered one after the other by a thread of its own, which ends
//! afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};

use crate::netlink::channel::{Channel, NetlinkError};
use crate::netlink::message::{AF_INET, Malformed, bytes, emit, find, fixed};

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
/// `RT_SCOPE_LINK`: addresses of this scope, or of a narrower one, mean something else on other links.
const SCOPE_LINK: u8 = 253;
const RULE_PROTOCOL: u16 = 21;
/// `RTPROT_KERNEL`: the rules to the tables local, main and default.
const OF_KERNEL: u8 = 2;
/// `RTM_GETNSID`; `NETNSA_NSID` and `NETNSA_FD`; `sizeof(struct rtgenmsg)`, aligned.
const GET_NETNS_ID: u16 = 90;
const NETNS_ID: u16 = 1;
const NETNS_FD: u16 = 3;
const NETNS_HEADER: usize = 4;
/// More than the Pods that a node may have.
const MAX_NAMESPACES: usize = 1024;
/// Inode of the pid namespace that every process of the machine is in (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Folders of namespaces that may exist without a process.
const NAMED_NAMESPACES: [&str; 2] = ["/run/netns", "/run/docker/netns"];

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

/// Devices in other network namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherNetnsLinks {
    /// Devices whose parent is in this namespace.
    pub links: Vec<SeenLink>,
    /// Why some namespaces may have been left out.
    pub incomplete: Option<String>,
}

/// Looks for devices of these kinds, for `limit` at most.
///
/// # Errors
/// This process's own namespace cannot be named.
pub fn links_in_other_netns(kinds: &'static [&'static str], limit: Duration) -> io::Result<OtherNetnsLinks> {
    let ours = File::open(OWN_NAMESPACE)?;
    let (others, mut incomplete) = other_namespaces(&ours)?;
    let deadline = Instant::now() + limit;
    let search = thread::Builder::new().name("other-netns".to_owned()).spawn(move || {
        let mut found = OtherNetnsLinks::default();
        for path in others {
            if Instant::now() > deadline {
                found.incomplete = Some("there are too many".to_owned());
                break;
            }
            match enter(&path).and_then(|()| children(&ours, kinds)) {
                Ok(links) => found.links.extend(links),
                // It ended meanwhile; the file that named it is dangling (EINVAL) or is gone.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
                Err(error) => found.incomplete = Some(format!("{}: {error}", path.display())),
            }
        }
        found
    })?;
    let found = search.join().map_err(|_| io::Error::other("the thread that searches for them"))?;
    incomplete = incomplete.or(found.incomplete);
    Ok(OtherNetnsLinks { links: found.links, incomplete })
}

/// Each namespace but ours once, and why there may be more.
fn other_namespaces(ours: &File) -> io::Result<(Vec<PathBuf>, Option<String>)> {
    let own = ours.metadata()?.ino();
    let mut incomplete = None;
    let pids = fs::metadata("/proc/self/ns/pid")?.ino();
    if pids != INITIAL_PID_NAMESPACE {
        incomplete = Some("other processes of the node are not visible".to_owned());
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        // The first process of the machine is in no Pod, and may be hidden.
        if name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) && name != "1" {
            paths.push(entry.path().join("ns/net"));
        }
    }
    for folder in NAMED_NAMESPACES {
        paths.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let mut namespaces = BTreeMap::new();
    for path in paths {
        match fs::metadata(&path) {
            Ok(metadata) => {
                namespaces.entry(metadata.ino()).or_insert(path);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                incomplete = Some("processes of others are not visible".to_owned());
            }
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    namespaces.remove(&own);
    if namespaces.len() > MAX_NAMESPACES {
        incomplete = Some("there are too many".to_owned());
    }
    Ok((namespaces.into_values().take(MAX_NAMESPACES).collect(), incomplete))
}

fn enter(path: &Path) -> io::Result<()> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Devices of the namespace that this thread is in, whose parent is in ours.
fn children(ours: &File, kinds: &[&str]) -> io::Result<Vec<SeenLink>> {
    let all = links().map_err(io::Error::other)?;
    let of_kind: Vec<SeenLink> =
        all.into_iter().filter(|link| kinds.contains(&link.kind.as_str()) && link.parent.is_some()).collect();
    if of_kind.is_empty() {
        return Ok(of_kind);
    }
    let id = netns_id(ours)?;
    Ok(of_kind.into_iter().filter(|link| link.parent == id).collect())
}

/// The id that the namespace of this thread has for another.
fn netns_id(namespace: &File) -> io::Result<Option<i32>> {
    let mut request = vec![0; NETNS_HEADER];
    request.extend(emit(&[bytes(NETNS_FD, &namespace.as_raw_fd().to_ne_bytes())]));
    let answer = Channel::open(NETLINK_ROUTE, "network namespaces")
        .and_then(|mut channel| channel.ask(GET_NETNS_ID, 0, &request))
        .map_err(io::Error::other)?;
    let attrs = answer.as_deref().and_then(|body| body.get(NETNS_HEADER..)).unwrap_or_default();
    Ok(fixed(attrs, NETNS_ID).map_err(io::Error::other)?.map(i32::from_ne_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::nest;

    #[test]
    fn link_is_decoded_with_its_kind() {
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
    fn address_of_a_peer_to_peer_link_is_the_local_one() {
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
