//! What files of this host and the daemon's socket say.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::admin::client;
use crate::check::kernel::KernelSettings;
use crate::check::other_programs::LegacyTable;
use crate::process::lock::LOCK_FILE;
use crate::routes::ROUTE_PROTOCOL;
use crate::routes::links::{self, SeenLink};
use crate::transport::text::errno_text;

/// How long the daemon may take for each part of its answer.
const ANSWER: Duration = Duration::from_secs(2);
const INTERFACES: &str = "/proc/sys/net/ipv4/conf";
const DEVICES: &str = "/sys/class/net";
const BPF: &str = "/sys/fs/bpf";
/// The most names of `/sys/fs/bpf` that are read: Cilium pins some hundred.
const MOST_PINNED: usize = 2000;

/// What files say.
#[derive(Default)]
pub(super) struct Files {
    pub kernel_settings: KernelSettings,
    pub legacy_tables: Option<Result<Vec<LegacyTable>, String>>,
    pub ipvs: Option<bool>,
    pub bpf: Option<Result<Vec<String>, String>>,
    pub virtual_functions: Option<Vec<Device>>,
    pub cards: Vec<String>,
}

/// A device of `/sys/class/net`.
pub(super) struct Device {
    name: String,
    index: u32,
    /// It is, or has, virtual functions.
    functions: bool,
}

pub(super) fn files() -> Files {
    let devices = devices();
    Files {
        kernel_settings: kernel_settings(),
        legacy_tables: Some(legacy_tables()),
        ipvs: ipvs(),
        bpf: Some(pinned_bpf()),
        cards: devices
            .iter()
            .flatten()
            .filter(|device| path(device, "device").exists())
            .map(|d| d.name.clone())
            .collect(),
        virtual_functions: devices,
    }
}

fn kernel_settings() -> KernelSettings {
    let conntrack = |name: &str| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    let rp_filter =
        per_interface("rp_filter").and_then(|all| all.into_iter().max_by_key(|(value, _)| rank(*value)));
    let localnet = per_interface("route_localnet");
    KernelSettings {
        ip_forward: number("/proc/sys/net/ipv4/ip_forward"),
        ipv6_forwarding: number("/proc/sys/net/ipv6/conf/all/forwarding"),
        rp_filter,
        routing_rules: links::foreign_rules(ROUTE_PROTOCOL).ok(),
        tcp_loose: conntrack("tcp_loose"),
        route_localnet: localnet
            .map(|all| all.into_iter().filter(|(value, _)| *value != 0).map(|(_, name)| name).collect()),
        conntrack: conntrack("count").zip(conntrack("max")),
        bridge_netfilter: number("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        bridges: None,
        bridges_to_apiservers: Vec::new(),
    }
}

/// Of `all` and an interface the higher value counts, so that 2 (loose) on `all` makes every interface loose.
fn rank(value: i64) -> i64 {
    if value == 1 { 2 } else { value.min(1) }
}

/// The effective value of each interface.
fn per_interface(setting: &str) -> Option<Vec<(i64, String)>> {
    let all = number(&format!("{INTERFACES}/all/{setting}"))?;
    let mut names: Vec<String> = fs::read_dir(INTERFACES)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .collect();
    // The first of several is shown.
    names.sort_by(|a, b| b.cmp(a));
    if names.is_empty() {
        names.push("all".to_owned());
    }
    let value = |name: String| Some((number(&format!("{INTERFACES}/{name}/{setting}"))?.max(all), name));
    Some(names.into_iter().filter_map(value).collect())
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Which tables legacy iptables has loaded here; without its modules there is no such file.
fn legacy_tables() -> Result<Vec<LegacyTable>, String> {
    let mut tables = Vec::new();
    for (path, command) in
        [("/proc/net/ip_tables_names", "iptables-legacy"), ("/proc/net/ip6_tables_names", "ip6tables-legacy")]
    {
        match fs::read_to_string(path) {
            Ok(text) => {
                tables.extend(text.lines().map(|name| LegacyTable { command, name: name.to_owned() }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{path}: {}", errno_text(&error))),
        }
    }
    Ok(tables)
}

/// Three lines of headings come first.
fn ipvs() -> Option<bool> {
    match fs::read_to_string("/proc/net/ip_vs") {
        Ok(text) => Some(text.lines().count() > 3),
        Err(error) => (error.kind() == io::ErrorKind::NotFound).then_some(false),
    }
}

/// Where nothing is mounted there is nothing pinned by this name.
fn pinned_bpf() -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut folders = vec![Path::new(BPF).to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(errno_text(&error)),
        };
        for entry in entries.flatten() {
            if names.len() >= MOST_PINNED {
                return Ok(names);
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => names.push(entry.path().to_string_lossy().into_owned()),
            }
        }
    }
    names.sort();
    Ok(names)
}

fn devices() -> Option<Vec<Device>> {
    let device = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let index = number(&format!("{DEVICES}/{name}/ifindex")).and_then(|index| index.try_into().ok())?;
        let mut device = Device { name, index, functions: false };
        let numbered = path(&device, "device/sriov_numvfs");
        let virtual_one = path(&device, "device/physfn").exists();
        device.functions = virtual_one || number(&numbered.to_string_lossy()).is_some_and(|count| count > 0);
        Some(device)
    };
    Some(fs::read_dir(DEVICES).ok()?.flatten().filter_map(device).collect())
}

fn path(device: &Device, file: &str) -> std::path::PathBuf {
    Path::new(DEVICES).join(&device.name).join(file)
}

/// The devices with virtual functions. A `/sys` that was mounted in another network namespace shows that one's devices.
pub(super) fn checked_virtual_functions(
    devices: Vec<Device>,
    links: Option<&Result<Vec<SeenLink>, String>>,
) -> Result<Vec<String>, String> {
    if let Some(Ok(links)) = links {
        let is_listed =
            |link: &SeenLink| devices.iter().any(|d| d.name == link.name && d.index == link.index);
        if !links.iter().all(is_listed) {
            return Err(format!("{DEVICES} belongs to another network namespace"));
        }
    }
    Ok(devices.into_iter().filter(|device| device.functions).map(|device| device.name).collect())
}

/// `None`: no daemon listens, and none holds the lock.
pub(super) fn daemon(run_dir: &Path) -> Result<Option<Value>, String> {
    let error = match client::get(run_dir, "/status", ANSWER) {
        Ok(answer) => {
            return serde_json::from_str(&answer).map(Some).map_err(|_| {
                "the response of the daemon cannot be read; does it have another version?".to_owned()
            });
        }
        Err(error) => error,
    };
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    if !matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)) {
        return Err(format!("{error:#}"));
    }
    // A daemon that was killed leaves its pid in the file.
    let pid = fs::read_to_string(run_dir.join(LOCK_FILE)).unwrap_or_default();
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
    if name.trim() == "apivip" {
        return Err(format!("pid {} has the lock, but no process listens on the socket", pid.trim()));
    }
    Ok(None)
}

/// An error and its causes on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
