//! Checks of other programs that redirect, filter or take over packets to the virtual IP. Pure.
//!
//! In: traces of them in nf_tables, devices, legacy iptables, IPVS and BPF ([`ProgramTraces`]). Out: a finding for each program.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::report::{Check, Finding, Group};
use crate::columns::few;
use crate::nftables::inventory::{RulesetInventory, SeenChain};
use crate::nftables::table::TABLE_NAME;
use crate::routes::links::SeenLink;

/// Traces of other programs.
#[derive(Clone, Debug, Default)]
pub struct ProgramTraces {
    /// What is in nf_tables, or why that cannot be read.
    pub rules: Option<Result<RulesetInventory, String>>,
    /// Devices, or why they cannot be listed.
    pub links: Option<Result<Vec<SeenLink>, String>>,
    /// Tables of iptables on the kernel's own tables, or why they cannot be listed.
    pub legacy: Option<Result<Vec<LegacyTable>, String>>,
    /// Whether `/proc/net/ip_vs` lists a service; `None`: it cannot be read.
    pub ipvs: Option<bool>,
    /// Each virtual IP that a socket was connected to, and the socket's peer address, or why it is not known.
    pub dialled: Vec<(SocketAddr, Result<SocketAddr, String>)>,
    /// Apiservers that are known, which Pods must reach.
    pub apiservers: BTreeSet<SocketAddr>,
    /// The daemon's proxy serves the virtual IP.
    pub forwards: bool,
    /// Names in the file system of BPF, in part.
    pub bpf: Option<Result<Vec<String>, String>>,
}

/// A table of legacy iptables that is loaded: its name can be read, its chains and policies cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyTable {
    /// The command that shows it: `iptables-legacy` or `ip6tables-legacy`.
    pub command: &'static str,
    /// `filter`, `nat`, ...
    pub name: String,
}

const fn other_program(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::OtherPrograms, title }
}

const KUBE_PROXY: Check = other_program("kube-proxy", "kube-proxy and its mode");
const NAT_ORDER: Check = other_program("nat-order", "order of NAT chains");
const CILIUM: Check = other_program("cilium", "socket load balancer and host routing of Cilium");
const CALICO: Check = other_program("calico-ebpf", "eBPF dataplane of Calico");
const SOCKETS: Check = other_program("socket-translation", "socket-level translation");

/// Ahead of it a flow is translated by others. [`crate::nftables::table::Hook`] has it.
const OURS: i32 = -105;

/// All findings.
pub fn findings(traces: &ProgramTraces) -> Vec<Finding> {
    vec![
        kube_proxy(traces),
        nat_order(traces),
        firewall(traces),
        cilium(traces),
        calico(traces),
        socket_translation(traces),
    ]
}

/// Whether there are rules of a kube-proxy in iptables mode, which protect loopback addresses.
pub fn has_iptables_proxy(traces: &ProgramTraces) -> bool {
    rules(traces).is_ok_and(|survey| survey.chains.iter().any(is_services))
}

fn rules(traces: &ProgramTraces) -> Result<&RulesetInventory, String> {
    match &traces.rules {
        Some(Ok(survey)) => Ok(survey),
        Some(Err(error)) => Err(error.clone()),
        None => Err("nf_tables did not answer in time".to_owned()),
    }
}

fn links(traces: &ProgramTraces) -> Result<&[SeenLink], String> {
    match &traces.links {
        Some(Ok(links)) => Ok(links),
        Some(Err(error)) => Err(error.clone()),
        None => Err("listing network devices timed out".to_owned()),
    }
}

fn has_link(traces: &ProgramTraces, is: impl Fn(&str) -> bool) -> Vec<String> {
    let links = links(traces).unwrap_or_default();
    links.iter().map(|link| &link.name).filter(|name| is(name)).cloned().collect()
}

fn is_services(chain: &SeenChain) -> bool {
    chain.name == "KUBE-SERVICES"
}

const NEEDED: &str = "sudo apivip check: the check requires CAP_NET_ADMIN";

fn kube_proxy(traces: &ProgramTraces) -> Finding {
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
            "mode {mode}: apivip runs first; connections of the node itself are rejected while kube-proxy knows no endpoint"
        )),
        [mode] if mode.starts_with("IPVS") => {
            KUBE_PROXY.info(format!("mode {mode}: it binds the virtual IP, and apivip redirects it anyway"))
        }
        [mode] => KUBE_PROXY.info(format!("mode {mode}: apivip runs first")),
        several => KUBE_PROXY.warning(
            format!("traces of several modes: {}", several.join(", ")),
            "kube-proxy --cleanup removes the rules of an earlier mode; then restart kube-proxy",
        ),
    }
}

/// No trace was found. That there is no kube-proxy is said only where every mode could be looked for.
fn no_proxy(traces: &ProgramTraces) -> Finding {
    match legacy_table(traces, "nat") {
        Ok(Some(command)) => {
            return KUBE_PROXY.unknown(
                "legacy iptables has a table nat, whose chains cannot be read over netlink",
                format!("{command} -t nat -nL KUBE-SERVICES"),
            );
        }
        Err(error) => return KUBE_PROXY.unknown(error, "sudo apivip check"),
        Ok(None) => {}
    }
    if let Err(error) = links(traces) {
        return KUBE_PROXY
            .unknown(format!("IPVS mode cannot be detected: {error}"), "ip link show dev kube-ipvs0");
    }
    match traces.ipvs {
        None => KUBE_PROXY.unknown("/proc/net/ip_vs cannot be read", "sudo ipvsadm -Ln"),
        Some(_) => KUBE_PROXY.ok("no trace of it"),
    }
}

/// The command that shows the table of this name, if legacy iptables has it loaded.
fn legacy_table(traces: &ProgramTraces, name: &str) -> Result<Option<&'static str>, String> {
    match &traces.legacy {
        Some(Ok(tables)) => Ok(tables.iter().find(|table| table.name == name).map(|table| table.command)),
        Some(Err(error)) => Err(format!("tables of legacy iptables: {error}")),
        None => Err("reading the tables of legacy iptables timed out".to_owned()),
    }
}

/// The hooks prerouting and output.
fn nat_order(traces: &ProgramTraces) -> Finding {
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
        return NAT_ORDER.ok(format!("no nat chain of another program runs at {OURS} or earlier"));
    };
    let shown: Vec<String> = earlier.iter().map(|(name, priority)| format!("{name} ({priority})")).collect();
    if any && *priority > OURS {
        return NAT_ORDER.info(format!(
            "the forwarder serves without rules of apivip: connections that these chains redirect do not reach it; the \
             self-test detects that: {}",
            few(&shown)
        ));
    }
    NAT_ORDER.warning(
        format!(
            "nat chains of other programs run as early or earlier, and may translate the virtual IP: {}",
            few(&shown)
        ),
        format!("nft list chain {first}: set its priority above {OURS}, or exclude the virtual IP from it"),
    )
}

fn bpf(traces: &ProgramTraces, is: impl Fn(&str) -> bool) -> Vec<String> {
    let Some(Ok(names)) = &traces.bpf else { return Vec::new() };
    names.iter().filter(|name| is(name)).cloned().collect()
}

fn cilium(traces: &ProgramTraces) -> Finding {
    if let Err(error) = links(traces) {
        return CILIUM.unknown(error, "ip -br link show");
    }
    let devices = has_link(traces, |name| name == "cilium_host" || name == "cilium_net");
    let sockets = bpf(traces, |name| name.contains("/socketlb/") || name.contains("cil_sock"));
    let pinned = bpf(traces, |name| name.contains("/cilium"));
    if !sockets.is_empty() {
        return CILIUM.warning(
            format!(
                "its socket load balancer translates the virtual IP before any packet is sent ({})",
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
        format!("detected ({trace}); this check cannot see whether it balances at sockets or bypasses netfilter"),
        "kubectl exec -n kube-system ds/cilium -- cilium-dbg status --verbose: KubeProxyReplacement must be False, Host Routing must be Legacy",
    )
}

fn calico(traces: &ProgramTraces) -> Finding {
    if let Err(error) = links(traces) {
        return CALICO.unknown(error, "ip -br link show");
    }
    let devices = has_link(traces, |name| name.starts_with("bpfin.cali") || name.starts_with("bpfout.cali"));
    let pinned = bpf(traces, |name| name.contains("/cali_") || name.contains("/calico"));
    match devices.first().or(pinned.first()) {
        Some(trace) => CALICO.warning(
            format!("it serves Services itself, before netfilter ({trace})"),
            "kubectl patch felixconfiguration default --type merge -p '{\"spec\":{\"bpfEnabled\":false}}', or use --listen",
        ),
        None => no_trace(&CALICO, traces),
    }
}

fn no_trace(check: &Check, traces: &ProgramTraces) -> Finding {
    match &traces.bpf {
        Some(Ok(_)) => check.ok("no trace of it"),
        Some(Err(error)) => check.unknown(format!("/sys/fs/bpf: {error}"), "sudo apivip check"),
        None => {
            check.unknown("reading /sys/fs/bpf timed out", "ls -R /sys/fs/bpf, then run apivip check again")
        }
    }
}

/// Programs at a cgroup can be listed by bpf(2) only, which takes raw pointers, and this program has no such code. Their effect on a socket can be observed.
fn socket_translation(traces: &ProgramTraces) -> Finding {
    let list = "bpftool cgroup tree, as root: connect4 and connect6 must not translate the virtual IP";
    let moved =
        traces.dialled.iter().find_map(|(vip, peer)| Some((vip, peer.as_ref().ok().filter(|p| *p != vip)?)));
    if let Some((vip, peer)) = moved {
        return SOCKETS.warning(
            format!("a socket that dials {vip} is connected to {peer} before any packet is sent"),
            format!("{list}; or use --listen"),
        );
    }
    match traces.dialled.iter().find_map(|(vip, peer)| Some((vip, peer.as_ref().err()?))) {
        Some((vip, error)) => SOCKETS.unknown(format!("{vip} {error}"), list),
        None if traces.dialled.is_empty() => SOCKETS.unknown("no virtual IP is known to dial", list),
        None => SOCKETS.ok("connections of this process to the virtual IP leave its socket untranslated"),
    }
}

const ALLOW: &str = "allow connections from Pods to the addresses and ports of the API servers in forward, and ct state established,related everywhere";

/// The number of the hook.
const INPUT: u32 = 1;

const FIREWALL: Check = other_program("firewall", "firewalls and drop policies");

fn firewall(traces: &ProgramTraces) -> Finding {
    let survey = match rules(traces) {
        Ok(survey) => survey,
        Err(error) => return FIREWALL.unknown(error, NEEDED),
    };
    // The hooks input, forward and output.
    let drops = |chain: &&SeenChain| {
        ["ip", "ip6", "inet"].contains(&chain.family)
            && chain.base.as_ref().is_some_and(|base| base.drops && (1..=3).contains(&base.hook))
    };
    let closed: Vec<&SeenChain> = survey.chains.iter().filter(drops).collect();
    let dropping: Vec<String> = closed.iter().map(|chain| named(chain)).collect();
    let firewalld = survey.tables.iter().any(|table| table.name == "firewalld");
    let ufw =
        survey.chains.iter().any(|chain| chain.name.starts_with("ufw-") || chain.name.starts_with("ufw6-"));
    let programs = match (firewalld, ufw) {
        (true, true) => "firewalld and ufw: ",
        (true, false) => "firewalld: ",
        (false, true) => "ufw: ",
        (false, false) => "",
    };
    if firewalld || !dropping.is_empty() {
        let what = if dropping.is_empty() {
            "rejects packets that no zone allows".to_owned()
        } else {
            format!("policies drop packets that no rule allows: {}", few(&dropping))
        };
        return FIREWALL.warning(
            format!("{programs}{what}"),
            match () {
                () if firewalld => format!("firewall-cmd --list-all-zones: {ALLOW}"),
                () if ufw => routed(&traces.apiservers),
                () => accepting(&closed, &traces.apiservers),
            },
        );
    }
    match legacy_table(traces, "filter") {
        Ok(Some(command)) => FIREWALL.unknown(
            format!("{programs}legacy iptables has a table filter, whose policies cannot be read over netlink"),
            format!("{command} -S | grep -- -P: FORWARD must be ACCEPT, or must allow Pods to reach the API servers"),
        ),
        Err(error) => FIREWALL.unknown(error, "sudo apivip check"),
        Ok(None) if ufw => FIREWALL.info("ufw is active, and its policies accept"),
        Ok(None) => FIREWALL.ok("no policy drops packets"),
    }
}

fn named(chain: &SeenChain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}

/// Lets ufw forward to each apiserver. It takes answers by itself.
fn routed(apiservers: &BTreeSet<SocketAddr>) -> String {
    if apiservers.is_empty() {
        return format!("ufw status verbose: {ALLOW}");
    }
    let allow = |to: &SocketAddr| format!("ufw route allow proto tcp to {} port {}", to.ip(), to.port());
    apiservers.iter().map(allow).collect::<Vec<_>>().join(" && ")
}

/// Rules that let through what the virtual IP needs, at the head of each chain that drops. Answers pass all of them; what
/// begins towards an apiserver is forwarded for Pods, and sent by the node itself.
fn accepting(chains: &[&SeenChain], apiservers: &BTreeSet<SocketAddr>) -> String {
    let mut rules = Vec::new();
    for chain in chains {
        let hook = chain.base.as_ref().map_or(0, |base| base.hook);
        let families = [("ip", true), ("ip6", false)];
        for (family, v4) in
            families.into_iter().filter(|(name, _)| chain.family == *name || chain.family == "inet")
        {
            let of_family = apiservers.iter().filter(|to| to.is_ipv4() == v4);
            let to: Vec<String> = of_family.map(|to| format!("{} . {}", to.ip(), to.port())).collect();
            if !to.is_empty() && hook != INPUT {
                rules.push(format!(
                    "insert rule {} {family} daddr . tcp dport {{ {} }} accept",
                    named(chain),
                    to.join(", ")
                ));
            }
        }
        rules.push(format!("insert rule {} ct state established,related accept", named(chain)));
    }
    if apiservers.is_empty() {
        return format!("nft list ruleset: {ALLOW}");
    }
    rules.iter().map(|rule| format!("nft '{rule}'")).collect::<Vec<_>>().join(" && ")
}

#[cfg(test)]
mod tests;
