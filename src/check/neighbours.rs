//! Verdicts on other programs that lead, filter or take over packets to the virtual IP. Pure.

mod firewall;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::finding::{Check, Finding, Group};
use crate::columns::few;
use crate::nftables::inventory::{RulesetInventory, SeenChain};
use crate::nftables::table::TABLE_NAME;
use crate::routes::links::SeenLink;

/// Traces of other programs.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// What is in nf_tables, or why that cannot be read.
    pub rules: Option<Result<RulesetInventory, String>>,
    /// Devices, or why they cannot be listed.
    pub links: Option<Result<Vec<SeenLink>, String>>,
    /// Tables of iptables on the kernel's own tables, or why they cannot be listed.
    pub legacy: Option<Result<Vec<LegacyTable>, String>>,
    /// Whether `/proc/net/ip_vs` lists a service; `None`: it cannot be read.
    pub ipvs: Option<bool>,
    /// Each virtual IP that was dialled, and whom the kernel took that for, or why that is not known.
    pub dialled: Vec<(SocketAddr, Result<SocketAddr, String>)>,
    /// Apiservers that are known, which Pods must reach.
    pub apiservers: BTreeSet<SocketAddr>,
    /// A daemon's forwarder serves.
    pub forwards: bool,
    /// Names in the file system of BPF, in part.
    pub bpf: Option<Result<Vec<String>, String>>,
}

/// A table of legacy iptables that is loaded: that there is one can be seen, its chains and policies cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyTable {
    /// The command that shows it: `iptables-legacy` or `ip6tables-legacy`.
    pub command: &'static str,
    /// `filter`, `nat`, ...
    pub name: String,
}

const fn neighbour(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Neighbours, title }
}

const KUBE_PROXY: Check = neighbour("kube-proxy", "kube-proxy and its mode");
const NAT_ORDER: Check = neighbour("nat-order", "who translates first");
const CILIUM: Check = neighbour("cilium", "Cilium's socket load balancer and host routing");
const CALICO: Check = neighbour("calico-ebpf", "Calico's eBPF dataplane");
const SOCKETS: Check = neighbour("socket-translation", "programs that translate at the socket");

/// Ahead of it a flow is translated by others. [`crate::nftables::table::Hook`] has it.
const OURS: i32 = -105;

/// All findings.
pub fn neighbours(traces: &Traces) -> Vec<Finding> {
    vec![
        kube_proxy(traces),
        nat_order(traces),
        firewall::firewall(traces),
        cilium(traces),
        calico(traces),
        socket_translation(traces),
    ]
}

/// Whether rules of a kube-proxy in iptables mode are seen, which guard loopback addresses.
pub fn has_iptables_proxy(traces: &Traces) -> bool {
    rules(traces).is_ok_and(|survey| survey.chains.iter().any(is_services))
}

fn rules(traces: &Traces) -> Result<&RulesetInventory, String> {
    match &traces.rules {
        Some(Ok(survey)) => Ok(survey),
        Some(Err(error)) => Err(error.clone()),
        None => Err("nf_tables did not answer in time".to_owned()),
    }
}

fn links(traces: &Traces) -> Result<&[SeenLink], String> {
    match &traces.links {
        Some(Ok(links)) => Ok(links),
        Some(Err(error)) => Err(error.clone()),
        None => Err("network devices were not listed in time".to_owned()),
    }
}

fn has_link(traces: &Traces, is: impl Fn(&str) -> bool) -> Vec<String> {
    let links = links(traces).unwrap_or_default();
    links.iter().map(|link| &link.name).filter(|name| is(name)).cloned().collect()
}

fn is_services(chain: &SeenChain) -> bool {
    chain.name == "KUBE-SERVICES"
}

const NEEDED: &str = "sudo apivip check: it needs CAP_NET_ADMIN";

fn kube_proxy(traces: &Traces) -> Finding {
    let survey = match rules(traces) {
        Ok(survey) => survey,
        Err(error) => return KUBE_PROXY.unknown(error, NEEDED),
    };
    let mut modes = Vec::new();
    if survey.tables.iter().any(|table| table.name == "kube-proxy") {
        modes.push("nftables (table kube-proxy)");
    }
    if survey.chains.iter().any(is_services) {
        modes.push("iptables (chain KUBE-SERVICES)");
    }
    let device = !has_link(traces, |name| name == "kube-ipvs0").is_empty();
    if device || traces.ipvs == Some(true) {
        modes.push(if device { "IPVS (device kube-ipvs0)" } else { "IPVS (/proc/net/ip_vs)" });
    }
    match modes.as_slice() {
        [] => no_proxy(traces),
        [mode] if mode.starts_with("nft") => KUBE_PROXY.info(format!(
            "mode {mode}: apivip comes first; the node's own connections are rejected while kube-proxy knows no endpoint"
        )),
        [mode] if mode.starts_with("IPVS") => {
            KUBE_PROXY.info(format!("mode {mode}: it binds the virtual IP, and apivip redirects it all the same"))
        }
        [mode] => KUBE_PROXY.info(format!("mode {mode}: apivip comes first")),
        several => KUBE_PROXY.warning(
            format!("traces of several modes: {}", several.join(", ")),
            "kube-proxy --cleanup removes what an earlier mode left; then restart kube-proxy",
        ),
    }
}

/// None was seen: whether there is none, only who could look everywhere knows.
fn no_proxy(traces: &Traces) -> Finding {
    match legacy_table(traces, "nat") {
        Ok(Some(command)) => {
            return KUBE_PROXY.unknown(
                "iptables has a table nat of the legacy kind, whose chains cannot be read over netlink",
                format!("{command} -t nat -nL KUBE-SERVICES"),
            );
        }
        Err(error) => return KUBE_PROXY.unknown(error, "sudo apivip check"),
        Ok(None) => {}
    }
    if let Err(error) = links(traces) {
        return KUBE_PROXY
            .unknown(format!("whether it is in IPVS mode: {error}"), "ip link show dev kube-ipvs0");
    }
    match traces.ipvs {
        None => KUBE_PROXY.unknown("/proc/net/ip_vs cannot be read", "sudo ipvsadm -Ln"),
        Some(_) => KUBE_PROXY.ok("no trace of it"),
    }
}

/// The command that shows the table of this name, if legacy iptables has it loaded.
fn legacy_table(traces: &Traces, name: &str) -> Result<Option<&'static str>, String> {
    match &traces.legacy {
        Some(Ok(tables)) => Ok(tables.iter().find(|table| table.name == name).map(|table| table.command)),
        Some(Err(error)) => Err(format!("tables of legacy iptables: {error}")),
        None => Err("tables of legacy iptables were not read in time".to_owned()),
    }
}

/// The hooks prerouting and output.
fn nat_order(traces: &Traces) -> Finding {
    let survey = match rules(traces) {
        Ok(survey) => survey,
        Err(error) => return NAT_ORDER.unknown(error, NEEDED),
    };
    // Without rules of ours whatever translates does so ahead of the forwarder's listeners.
    let guarded = survey.tables.iter().any(|table| table.name == TABLE_NAME);
    let any = traces.forwards && !guarded;
    let earlier = survey.chains.iter().filter_map(|chain| {
        let base = chain.base.as_ref()?;
        let ahead = base.kind == "nat" && matches!(base.hook, 0 | 3) && (any || base.priority <= OURS);
        let name = || format!("{} {} {}", chain.family, chain.table, chain.name);
        (ahead && chain.table != TABLE_NAME).then(|| (name(), base.priority))
    });
    let mut earlier: Vec<(String, i32)> = earlier.collect();
    earlier.sort_by_key(|(_, priority)| *priority);
    let Some((first, priority)) = earlier.first() else {
        return NAT_ORDER.ok(format!("no nat chain of others runs at {OURS} or earlier"));
    };
    let shown: Vec<String> = earlier.iter().map(|(name, priority)| format!("{name} ({priority})")).collect();
    if any && *priority > OURS {
        return NAT_ORDER.info(format!(
            "the forwarder serves and no rules of apivip stand: what these chains lead elsewhere does not reach it; the \
             self-test tells whether they do: {}",
            few(&shown)
        ));
    }
    NAT_ORDER.warning(
        format!(
            "nat chains of others run as early or earlier, and may translate the virtual IP: {}",
            few(&shown)
        ),
        format!(
            "nft list chain {first}: give it a priority above {OURS}, or see that it leaves the virtual IP alone"
        ),
    )
}

fn bpf(traces: &Traces, is: impl Fn(&str) -> bool) -> Vec<String> {
    let Some(Ok(names)) = &traces.bpf else { return Vec::new() };
    names.iter().filter(|name| is(name)).cloned().collect()
}

fn cilium(traces: &Traces) -> Finding {
    if let Err(error) = links(traces) {
        return CILIUM.unknown(error, "ip -br link show");
    }
    let devices = has_link(traces, |name| name == "cilium_host" || name == "cilium_net");
    let sockets = bpf(traces, |name| name.contains("/socketlb/") || name.contains("cil_sock"));
    let pinned = bpf(traces, |name| name.contains("/cilium"));
    if !sockets.is_empty() {
        return CILIUM.warning(
            format!(
                "its socket load balancer translates the virtual IP before any packet is made ({})",
                sockets[0]
            ),
            "helm upgrade cilium cilium/cilium -n kube-system --reuse-values --set socketLB.enabled=false --set kubeProxyReplacement=false, or use --listen",
        );
    }
    if devices.is_empty() && pinned.is_empty() {
        return no_trace(&CILIUM, traces);
    }
    let trace = few(if devices.is_empty() { &pinned } else { &devices });
    CILIUM.unknown(
        format!("it is there ({trace}); whether it load-balances at sockets or routes past netfilter is not visible from here"),
        "kubectl exec -n kube-system ds/cilium -- cilium-dbg status --verbose: KubeProxyReplacement must be False, Host Routing must be Legacy",
    )
}

fn calico(traces: &Traces) -> Finding {
    if let Err(error) = links(traces) {
        return CALICO.unknown(error, "ip -br link show");
    }
    let devices = has_link(traces, |name| name.starts_with("bpfin.cali") || name.starts_with("bpfout.cali"));
    let pinned = bpf(traces, |name| name.contains("/cali_") || name.contains("/calico"));
    match devices.first().or(pinned.first()) {
        Some(trace) => CALICO.warning(
            format!("it serves Services itself, ahead of netfilter ({trace})"),
            "kubectl patch felixconfiguration default --type merge -p '{\"spec\":{\"bpfEnabled\":false}}', or use --listen",
        ),
        None => no_trace(&CALICO, traces),
    }
}

fn no_trace(check: &Check, traces: &Traces) -> Finding {
    match &traces.bpf {
        Some(Ok(_)) => check.ok("no trace of it"),
        Some(Err(error)) => check.unknown(format!("/sys/fs/bpf: {error}"), "sudo apivip check"),
        None => {
            check.unknown("/sys/fs/bpf was not read in time", "ls -R /sys/fs/bpf, then apivip check again")
        }
    }
}

/// Programs at a cgroup can be listed by bpf(2) only, which takes pointers. What they do can be seen.
fn socket_translation(traces: &Traces) -> Finding {
    let list = "bpftool cgroup tree, as root: connect4 and connect6 must not translate the virtual IP";
    let moved =
        traces.dialled.iter().find_map(|(vip, peer)| Some((vip, peer.as_ref().ok().filter(|p| *p != vip)?)));
    if let Some((vip, peer)) = moved {
        return SOCKETS.warning(
            format!("a socket that dials {vip} is connected to {peer} before any packet is made"),
            format!("{list}; or use --listen"),
        );
    }
    match traces.dialled.iter().find_map(|(vip, peer)| Some((vip, peer.as_ref().err()?))) {
        Some((vip, error)) => SOCKETS.unknown(format!("{vip} {error}"), list),
        None if traces.dialled.is_empty() => {
            SOCKETS.unknown("no virtual IP is known that could be dialled", list)
        }
        None => SOCKETS.ok("what this process dials at the virtual IP leaves its socket untranslated"),
    }
}
#[cfg(test)]
mod tests;
