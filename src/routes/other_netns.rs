//! Devices in other network namespaces of the node that hang on one of this namespace: macvlan and ipvlan devices are
//! made here and moved into a Pod, where nobody sees them from here. For looking only.
//!
//! In: nothing. Out: what was found, and whether every namespace could be looked into. Whoever looks enters one after the
//! other on a thread of its own, which ends afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};

use crate::netlink::channel::Channel;
use crate::netlink::message::{bytes, emit, fixed};
use crate::routes::links::{SeenLink, links};

/// `RTM_GETNSID`; `NETNSA_NSID` and `NETNSA_FD`; `sizeof(struct rtgenmsg)`, aligned.
const GET_ID: u16 = 90;
const ID: u16 = 1;
const FD: u16 = 3;
const HEADER: usize = 4;
/// As many Pods as a node may have, and then some.
const MOST: usize = 1024;
/// Inode of the pid namespace that every process of the machine is in (`PROC_PID_INIT_INO`).
const ALL_PROCESSES: u64 = 0xefff_fffc;
const OURS: &str = "/proc/thread-self/ns/net";
/// Namespaces that no process need be in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Devices that hang on one of this namespace.
    pub links: Vec<SeenLink>,
    /// Why some namespaces may have been left out.
    pub blind: Option<String>,
}

/// Looks for devices of these kinds, for `limit` at most.
///
/// # Errors
/// This process's own namespace cannot be named.
pub fn elsewhere(kinds: &'static [&'static str], limit: Duration) -> io::Result<Elsewhere> {
    let ours = File::open(OURS)?;
    let (others, mut blind) = others(&ours)?;
    let deadline = Instant::now() + limit;
    let look = thread::Builder::new().name("elsewhere".to_owned()).spawn(move || {
        let mut found = Elsewhere::default();
        for path in others {
            if Instant::now() > deadline {
                found.blind = Some("there are too many".to_owned());
                break;
            }
            match enter(&path).and_then(|()| children(&ours, kinds)) {
                Ok(links) => found.links.extend(links),
                // It ended meanwhile; the file that named it leads nowhere (EINVAL) or is gone.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
                Err(error) => found.blind = Some(format!("{}: {error}", path.display())),
            }
        }
        found
    })?;
    let found = look.join().map_err(|_| io::Error::other("the thread that looked for them"))?;
    blind = blind.or(found.blind);
    Ok(Elsewhere { links: found.links, blind })
}

/// Each namespace but ours once, and why there may be more.
fn others(ours: &File) -> io::Result<(Vec<PathBuf>, Option<String>)> {
    let own = ours.metadata()?.ino();
    let mut blind = None;
    let pids = fs::metadata("/proc/self/ns/pid")?.ino();
    if pids != ALL_PROCESSES {
        blind = Some("other processes of the node are not visible".to_owned());
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        // The first process of the machine is in no Pod, and may be hidden.
        if name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) && name != "1" {
            paths.push(entry.path().join("ns/net"));
        }
    }
    for folder in NAMED {
        paths.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let mut namespaces = BTreeMap::new();
    for path in paths {
        match fs::metadata(&path) {
            Ok(metadata) => {
                namespaces.entry(metadata.ino()).or_insert(path);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                blind = Some("processes of others are not visible".to_owned());
            }
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    namespaces.remove(&own);
    if namespaces.len() > MOST {
        blind = Some("there are too many".to_owned());
    }
    Ok((namespaces.into_values().take(MOST).collect(), blind))
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
    let id = id_of(ours)?;
    Ok(of_kind.into_iter().filter(|link| link.parent == id).collect())
}

/// The number by which this namespace knows another.
fn id_of(namespace: &File) -> io::Result<Option<i32>> {
    let mut request = vec![0; HEADER];
    request.extend(emit(&[bytes(FD, &namespace.as_raw_fd().to_ne_bytes())]));
    let answer = Channel::open(NETLINK_ROUTE, "network namespaces")
        .and_then(|mut channel| channel.ask(GET_ID, 0, &request))
        .map_err(io::Error::other)?;
    let attrs = answer.as_deref().and_then(|body| body.get(HEADER..)).unwrap_or_default();
    Ok(fixed(attrs, ID).map_err(io::Error::other)?.map(i32::from_ne_bytes))
}
