//! Checks of what this process may do, what the kernel supports and how it is set. Pure.
//!
//! In: the effective capability set, the features that were tried, sysctls. Out: a finding for each.

use super::report::{Check, Finding, Group};
use crate::columns::few;
use crate::kernel_features::{Feature, Outcome, Tried};

/// The features that were tried, or why none could be.
pub type FeatureTrial = Result<Vec<Tried>, String>;

const fn kernel_check(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Kernel, title }
}

const fn capability(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Privileges, title }
}

const NET_ADMIN: Check = capability("cap-net-admin", "permission to change rules and routes");
const BIND: Check = capability("cap-net-bind-service", "permission to listen on ports below 1024");
const NET_RAW: Check = capability("cap-net-raw", "permission to send and capture raw packets");
const SYS_ADMIN: Check =
    capability("cap-sys-admin", "permission to create a network namespace, for this check only");

/// Bits of `include/uapi/linux/capability.h`.
const CAPABILITIES: [(Check, u32); 4] = [(NET_ADMIN, 12), (BIND, 10), (NET_RAW, 13), (SYS_ADMIN, 21)];

const GRANT: &str = "systemctl edit apivip: CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW; in a Pod securityContext.capabilities.add";

/// The consequence of a missing feature.
enum Loss {
    /// Rules do not work at all: the proxy is the fallback.
    Rules(&'static str),
    /// Something is lost.
    Part(&'static str, &'static str),
    /// Only the proxy does not work.
    Forwarder(&'static str),
}

/// The check of a feature, what it says when the feature is there, and what is lost when it is not.
fn about(feature: Feature) -> (Check, &'static str, Loss) {
    use Loss::{Forwarder, Part, Rules};
    const NFT: &str = "modprobe nf_tables; a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET";
    match feature {
        Feature::NfTables => {
            (kernel_check("kernel-nf-tables", "nf_tables"), "accepts a table of family inet", Rules(NFT))
        }
        Feature::Nat => (
            kernel_check("kernel-nat", "NAT in family inet"),
            "supports NAT in prerouting, output and postrouting",
            Rules(
                "modprobe -a nft_chain_nat nft_masq; a kernel from 5.2 with CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
            ),
        ),
        Feature::Reject => (
            kernel_check("kernel-reject", "TCP reset in prerouting"),
            "supports reject in prerouting",
            Rules("modprobe nft_reject_inet; a kernel from 5.9 with CONFIG_NFT_REJECT_INET"),
        ),
        Feature::Fib => (
            kernel_check("kernel-fib", "route lookups in rules"),
            "matches local addresses in rules",
            Rules("modprobe nft_fib_inet; a kernel with CONFIG_NFT_FIB_INET"),
        ),
        Feature::Balance => (
            kernel_check("kernel-balance", "random selection in rules"),
            "selects by numgen and a verdict map",
            Rules("modprobe nft_numgen; a kernel with CONFIG_NFT_NUMGEN"),
        ),
        Feature::ClientHash => (
            kernel_check("kernel-client-hash", "selection by client address"),
            "selects by jhash",
            Part(
                "a Service with sessionAffinity ClientIP cannot be programmed and uses the forwarder",
                "modprobe nft_hash; a kernel with CONFIG_NFT_HASH",
            ),
        ),
        Feature::ConntrackRules => (
            kernel_check("kernel-conntrack-rules", "conntrack in rules"),
            "matches conntrack entries and supports notrack",
            Rules("modprobe nft_ct; a kernel with CONFIG_NFT_CT"),
        ),
        Feature::WholeTable => (
            kernel_check("kernel-table", "complete table of the daemon"),
            "accepts the table of a node with IPv4, IPv6 and a failed API server",
            Rules(
                "modprobe -a nf_tables nft_chain_nat nft_ct nft_fib_inet nft_hash nft_masq nft_numgen nft_reject_inet",
            ),
        ),
        Feature::TableOwner => (
            kernel_check("kernel-table-owner", "table ownership"),
            "supports the flags owner and persist",
            Part(
                "any program can change or flush the table; the daemon detects and repairs that",
                "apivip run --table-owner off, or a kernel from 6.9",
            ),
        ),
        Feature::ConntrackNetlink => (
            kernel_check("kernel-conntrack-netlink", "listing of conntrack entries"),
            "lists the entry of a connection",
            Part(
                "connections to a failed API server are reset only when their client sends data",
                "modprobe nf_conntrack_netlink; a kernel with CONFIG_NF_CT_NETLINK",
            ),
        ),
        Feature::ConntrackFilter => (
            kernel_check("kernel-conntrack-filter", "filter for conntrack entries"),
            "lists only the requested entries",
            Part(
                "all entries of the node are listed when an API server fails: slower with very many connections",
                "uname -r: use a kernel from 5.8",
            ),
        ),
        Feature::SocketDestroy => (
            kernel_check("kernel-sock-destroy", "destruction of sockets"),
            "destroys a socket of the host",
            Part(
                "connections of the node itself to a failed API server are reset like those of Pods",
                "grep CONFIG_INET_DIAG_DESTROY= /boot/config-$(uname -r): use a kernel with the value y",
            ),
        ),
        Feature::RawSockets => (
            kernel_check("kernel-raw-sockets", "raw sockets"),
            "opens raw sockets",
            Part("idle clients of a failed API server are not notified", GRANT),
        ),
        Feature::PacketSockets => (
            kernel_check("kernel-packet-sockets", "packet sockets"),
            "opens packet sockets with a filter",
            Part(
                "without rules, clients of a failed API server get no resets",
                "modprobe af_packet; a kernel with CONFIG_PACKET",
            ),
        ),
        Feature::Tun => (
            kernel_check("kernel-tun", "tun device"),
            "creates a tun device",
            Forwarder("modprobe tun; ls -l /dev/net/tun"),
        ),
        Feature::LocalRoutes => (
            kernel_check("kernel-local-routes", "local routes"),
            "makes an address local with a route",
            Forwarder(
                "grep CONFIG_IP_MULTIPLE_TABLES= /boot/config-$(uname -r): use a kernel with the value y",
            ),
        ),
        Feature::RoutingRules => (
            kernel_check("kernel-routing-rules", "routing rules with a port"),
            "accepts a rule with protocol and port",
            Forwarder("uname -r: a kernel from 4.17 with CONFIG_IP_MULTIPLE_TABLES"),
        ),
    }
}

/// One finding for each feature. `forwards`: the operator allows the proxy as a fallback.
pub fn features(trial: &FeatureTrial, forwards: bool) -> Vec<Finding> {
    Feature::ALL.into_iter().map(|feature| of_feature(feature, trial, forwards)).collect()
}

fn of_feature(feature: Feature, trial: &FeatureTrial, forwards: bool) -> Finding {
    let (check, works, loss) = about(feature);
    let tried = match trial {
        Err(error) => {
            let why = format!("cannot create a network namespace for the test: {error}");
            return check.unknown(why, "sudo apivip check: the check requires CAP_SYS_ADMIN");
        }
        Ok(tried) => tried.iter().find(|(tried, _)| *tried == feature),
    };
    let reason = match tried {
        Some((_, Outcome::Works)) => return check.ok(works),
        Some((_, Outcome::Missing(reason))) => reason,
        Some((_, Outcome::Forbidden(reason))) => {
            let needed = match feature {
                Feature::RawSockets | Feature::PacketSockets => {
                    "sudo apivip check: the check requires CAP_NET_RAW"
                }
                _ => "sudo apivip check: the check requires CAP_NET_ADMIN",
            };
            return check.unknown(reason, needed);
        }
        Some((_, Outcome::Unclear(reason))) => {
            return check.unknown(reason, "dmesg | tail, then run apivip check again");
        }
        None => {
            return check.unknown(
                "not tested: an earlier test failed or hung",
                "dmesg | tail, then run apivip check again",
            );
        }
    };
    match loss {
        Loss::Rules(needs) if forwards => check
            .warning(format!("nftables rules do not work, the forwarder is the fallback: {reason}"), needs),
        Loss::Rules(needs) => {
            check.fail(format!("nftables rules do not work: {reason}"), format!("{needs}; or --mode auto"))
        }
        Loss::Part(loss, needs) => check.warning(format!("{loss}: {reason}"), needs),
        Loss::Forwarder(needs) => {
            check.warning(format!("the forwarder cannot be the fallback for nftables rules: {reason}"), needs)
        }
    }
}

/// One finding for each capability that matters, from the effective set.
pub fn capabilities(effective: Option<u64>) -> Vec<Finding> {
    CAPABILITIES.iter().map(|(check, bit)| of_capability(check, *bit, effective)).collect()
}

fn of_capability(check: &Check, bit: u32, effective: Option<u64>) -> Finding {
    let Some(set) = effective else {
        return check.unknown("/proc/self/status cannot be read", "mount -t proc proc /proc");
    };
    if set & (1 << bit) != 0 {
        return check.ok("in the effective set");
    }
    match check.id {
        "cap-net-admin" => {
            check.fail("missing: apivip run does not start without it, and many checks have no result", GRANT)
        }
        "cap-net-bind-service" => check.warning(
            "missing: as the fallback, the forwarder cannot listen on a virtual IP with a port below 1024",
            GRANT,
        ),
        "cap-net-raw" => {
            check.warning("missing: clients of a failed API server are reset only when they send data", GRANT)
        }
        _ => check.info("missing: kernel features cannot be tested; apivip run does not require it"),
    }
}

/// Values as `/proc/sys` shows them; what is not there, or cannot be read, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelSettings {
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<i64>,
    /// `net.ipv6.conf.all.forwarding`; absent on a kernel without IPv6.
    pub ipv6_forwarding: Option<i64>,
    /// The highest `rp_filter` of all interfaces, which is what counts, and where it is.
    pub rp_filter: Option<(i64, String)>,
    /// Routing rules besides the kernel's and apivip's own.
    pub routing_rules: Option<usize>,
    /// `net.netfilter.nf_conntrack_tcp_loose`.
    pub tcp_loose: Option<i64>,
    /// Interfaces with `route_localnet`.
    pub route_localnet: Option<Vec<String>>,
    /// Entries in conntrack's table, and how many there may be.
    pub conntrack: Option<(i64, i64)>,
    /// `net.bridge.bridge-nf-call-iptables`; absent without the module br_netfilter.
    pub bridge_netfilter: Option<i64>,
    /// Bridges on this node; `None`: they could not be listed.
    pub bridges: Option<Vec<String>>,
    /// Those of them by which this node reaches an apiserver.
    pub bridges_to_apiservers: Vec<String>,
}

const fn setting(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Settings, title }
}

const IP_FORWARD: Check = setting("ip-forward", "IPv4 forwarding");
const IPV6_FORWARDING: Check = setting("ipv6-forwarding", "IPv6 forwarding");
const RP_FILTER: Check = setting("rp-filter", "reverse path filter");
const TCP_LOOSE: Check = setting("conntrack-tcp-loose", "conntrack pickup of established connections");
const ROUTE_LOCALNET: Check = setting("route-localnet", "access to loopback addresses from outside");
const CONNTRACK: Check = setting("conntrack-table", "usage of the conntrack table");
const BRIDGE: Check = setting("bridge-netfilter", "netfilter for bridged packets");

const PROC: &str = "mount -t proc proc /proc";
/// Lets what `sysctl` says that it has set be set at each start.
const KEEP: &str = "tee -a /etc/sysctl.d/90-apivip.conf";

/// From this share of conntrack's table on, in percent.
const CROWDED: i64 = 75;
const NEARLY_FULL: i64 = 95;

/// Which settings matter on this node.
#[derive(Clone, Copy, Debug)]
pub struct Concerns {
    /// An IPv4 virtual IP is, or may be, served.
    pub ipv4: bool,
    /// An IPv6 virtual IP is, or may be, served.
    pub ipv6: bool,
    /// `--listen` names a loopback address, and no rules of kube-proxy's guard it.
    pub loopback: bool,
}

/// All findings.
pub fn settings(observed: &KernelSettings, concerns: Concerns) -> Vec<Finding> {
    let Concerns { ipv4, ipv6, loopback } = concerns;
    vec![
        forwarding(&IP_FORWARD, "net.ipv4.ip_forward", observed.ip_forward, ipv4),
        forwarding(&IPV6_FORWARDING, "net.ipv6.conf.all.forwarding", observed.ipv6_forwarding, ipv6),
        rp_filter(observed),
        tcp_loose(observed.tcp_loose),
        route_localnet(observed.route_localnet.as_deref(), loopback),
        conntrack(observed.conntrack),
        bridge_netfilter(observed),
    ]
}

fn forwarding(check: &Check, key: &str, value: Option<i64>, needed: bool) -> Finding {
    match (value, needed) {
        (_, false) => check.ok("no virtual IP of that IP family is known"),
        (None, true) => check.unknown(
            format!("{key} cannot be read"),
            "ls -d /proc/sys/net/ipv4 /proc/sys/net/ipv6: the kernel does not support a missing family",
        ),
        (Some(0), true) => check.warning(
            format!("{key} is 0: packets of Pods are not forwarded; connections of the node itself work"),
            format!("sysctl -w {key}=1 | {KEEP}"),
        ),
        (Some(_), true) => check.ok("on"),
    }
}

fn rp_filter(observed: &KernelSettings) -> Finding {
    match (&observed.rp_filter, observed.routing_rules) {
        (None, _) => RP_FILTER.unknown("net.ipv4.conf.*.rp_filter cannot be read", PROC),
        (Some((1, place)), Some(rules)) if rules > 0 => RP_FILTER.warning(
            format!("strict on {place}, and {rules} routing rules exist: replies that arrive on another path are dropped"),
            format!("sysctl -w net.ipv4.conf.all.rp_filter=2 | {KEEP}"),
        ),
        (Some((1, place)), _) => RP_FILTER.info(format!("strict on {place}: packets are dropped if the route to their source uses another interface")),
        (Some(_), _) => RP_FILTER.ok("not strict"),
    }
}

fn tcp_loose(value: Option<i64>) -> Finding {
    match value {
        None => TCP_LOOSE.unknown("conntrack is not loaded yet, or cannot be read", "modprobe nf_conntrack"),
        Some(0) => TCP_LOOSE.info("off: connections to a failed API server are ended by resets"),
        Some(_) => TCP_LOOSE.ok("on"),
    }
}

fn route_localnet(interfaces: Option<&[String]>, at_risk: bool) -> Finding {
    match interfaces {
        None => ROUTE_LOCALNET.unknown("net.ipv4.conf.*.route_localnet cannot be read", PROC),
        Some([]) => ROUTE_LOCALNET.ok("off: only this node can reach listeners on 127.0.0.1"),
        Some(some) if at_risk => ROUTE_LOCALNET.warning(
            format!("on for {}: other hosts on its network can reach --listen on 127.0.0.1", few(some)),
            closed(some),
        ),
        Some(some) => ROUTE_LOCALNET
            .info(format!("on for {}, as kube-proxy requires it; --listen is not affected", few(some))),
    }
}

/// Of `all` and an interface, either is enough to open it.
fn closed(interfaces: &[String]) -> String {
    let of = |name: &str| format!(" net/ipv4/conf/{name}/route_localnet=0");
    let all: String = interfaces.iter().filter(|name| *name != "all").map(|name| of(name)).collect();
    format!("sysctl -w{}{all} | {KEEP}", of("all"))
}

fn conntrack(table: Option<(i64, i64)>) -> Finding {
    match table {
        None => CONNTRACK.unknown("conntrack is not loaded yet, or cannot be read", "modprobe nf_conntrack"),
        Some((count, max)) => {
            let text = format!("{count} of {max} entries");
            let twice = max.saturating_mul(2);
            let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={twice} | {KEEP}");
            match count.saturating_mul(100).checked_div(max).unwrap_or(0) {
                NEARLY_FULL.. => CONNTRACK.fail(format!("{text}: new connections will soon fail"), fix),
                CROWDED.. => CONNTRACK.warning(text, fix),
                _ => CONNTRACK.ok(text),
            }
        }
    }
}

fn bridge_netfilter(observed: &KernelSettings) -> Finding {
    match (observed.bridge_netfilter, observed.bridges.as_deref()) {
        (_, None) => BRIDGE.unknown("bridges cannot be listed", "ip -br link show type bridge"),
        (_, Some([])) => BRIDGE.ok("no bridge exists"),
        (Some(0) | None, _) if !observed.bridges_to_apiservers.is_empty() => BRIDGE.warning(
            format!(
                "off, and {} connects to an API server: its replies to Pods on the same bridge bypass netfilter and arrive \
                 from an address that the Pods never dialed",
                few(&observed.bridges_to_apiservers)
            ),
            "modprobe br_netfilter, then sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1; \
             no action is needed if no Pod is on that bridge",
        ),
        (Some(0) | None, Some(bridges)) => BRIDGE.info(format!(
            "off, and {} exists: Pods reach the virtual IP anyway; kubeadm requires it",
            few(bridges)
        )),
        (Some(_), _) => BRIDGE.ok("on"),
    }
}

#[cfg(test)]
mod tests;
