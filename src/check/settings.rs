//! Verdicts on sysctls and on conntrack's table. Pure.

use super::finding::{Check, Finding, Group};
use crate::columns::few;

/// Values as `/proc/sys` shows them; what is not there, or cannot be read, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
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
const TCP_LOOSE: Check = setting("conntrack-tcp-loose", "connections taken up in the middle");
const ROUTE_LOCALNET: Check = setting("route-localnet", "loopback addresses from outside");
const CONNTRACK: Check = setting("conntrack-table", "room in conntrack's table");
const BRIDGE: Check = setting("bridge-netfilter", "bridged packets in netfilter");

const PROC: &str = "mount -t proc proc /proc";
/// Lets what `sysctl` says that it has set be set at each start.
const KEEP: &str = "tee -a /etc/sysctl.d/90-apivip.conf";

/// From this share of conntrack's table on, in percent.
const CROWDED: i64 = 75;
const NEARLY_FULL: i64 = 95;

/// What of it matters.
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
pub fn settings(seen: &Settings, concerns: Concerns) -> Vec<Finding> {
    let Concerns { ipv4, ipv6, loopback } = concerns;
    vec![
        forwarding(&IP_FORWARD, "net.ipv4.ip_forward", seen.ip_forward, ipv4),
        forwarding(&IPV6_FORWARDING, "net.ipv6.conf.all.forwarding", seen.ipv6_forwarding, ipv6),
        rp_filter(seen),
        tcp_loose(seen.tcp_loose),
        route_localnet(seen.route_localnet.as_deref(), loopback),
        conntrack(seen.conntrack),
        bridge_netfilter(seen),
    ]
}

fn forwarding(check: &Check, key: &str, value: Option<i64>, needed: bool) -> Finding {
    match (value, needed) {
        (_, false) => check.ok("no virtual IP of that family is known"),
        (None, true) => check.unknown(
            format!("{key} cannot be read"),
            "ls -d /proc/sys/net/ipv4 /proc/sys/net/ipv6: a family that is not there is not in the kernel",
        ),
        (Some(0), true) => check.warning(
            format!("{key} is 0: packets of Pods are not forwarded; the node's own connections work"),
            format!("sysctl -w {key}=1 | {KEEP}"),
        ),
        (Some(_), true) => check.ok("on"),
    }
}

fn rp_filter(seen: &Settings) -> Finding {
    match (&seen.rp_filter, seen.routing_rules) {
        (None, _) => RP_FILTER.unknown("net.ipv4.conf.*.rp_filter cannot be read", PROC),
        (Some((1, place)), Some(rules)) if rules > 0 => RP_FILTER.warning(
            format!("strict on {place}, and there are {rules} routing rules: answers that come by another way are dropped"),
            format!("sysctl -w net.ipv4.conf.all.rp_filter=2 | {KEEP}"),
        ),
        (Some((1, place)), _) => RP_FILTER.info(format!("strict on {place}: no packet has a source that routes do not lead back to")),
        (Some(_), _) => RP_FILTER.ok("not strict"),
    }
}

fn tcp_loose(value: Option<i64>) -> Finding {
    match value {
        None => TCP_LOOSE.unknown("conntrack is not loaded yet, or cannot be read", "modprobe nf_conntrack"),
        Some(0) => TCP_LOOSE.info("off: flows to a dead apiserver are ended by resets"),
        Some(_) => TCP_LOOSE.ok("on"),
    }
}

fn route_localnet(interfaces: Option<&[String]>, at_risk: bool) -> Finding {
    match interfaces {
        None => ROUTE_LOCALNET.unknown("net.ipv4.conf.*.route_localnet cannot be read", PROC),
        Some([]) => ROUTE_LOCALNET.ok("off: listeners on 127.0.0.1 are the node's own"),
        Some(some) if at_risk => ROUTE_LOCALNET.warning(
            format!(
                "on for {}: other hosts of its network may reach what --listen serves on 127.0.0.1",
                few(some)
            ),
            closed(some),
        ),
        Some(some) => ROUTE_LOCALNET
            .info(format!("on for {}, as kube-proxy wants it; --listen is not concerned", few(some))),
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
            let mend = format!("sysctl -w net.netfilter.nf_conntrack_max={twice} | {KEEP}");
            match count.saturating_mul(100).checked_div(max).unwrap_or(0) {
                NEARLY_FULL.. => CONNTRACK.fail(format!("{text}: new connections are about to fail"), mend),
                CROWDED.. => CONNTRACK.warning(text, mend),
                _ => CONNTRACK.ok(text),
            }
        }
    }
}

fn bridge_netfilter(seen: &Settings) -> Finding {
    match (seen.bridge_netfilter, seen.bridges.as_deref()) {
        (_, None) => BRIDGE.unknown("bridges could not be listed", "ip -br link show type bridge"),
        (_, Some([])) => BRIDGE.ok("there is no bridge"),
        (Some(0) | None, _) if !seen.bridges_to_apiservers.is_empty() => BRIDGE.warning(
            format!(
                "off, and an apiserver is reached by {}: its answers to Pods on the same bridge pass no netfilter, and come \
                 from an address that they never dialled",
                few(&seen.bridges_to_apiservers)
            ),
            "modprobe br_netfilter, then sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1; \
             nothing, if no Pod hangs on that bridge",
        ),
        (Some(0) | None, Some(bridges)) => BRIDGE.info(format!(
            "off, and there is {}: Pods reach the virtual IP all the same; kubeadm wants it on",
            few(bridges)
        )),
        (Some(_), _) => BRIDGE.ok("on"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    const ALL: Concerns = Concerns { ipv4: true, ipv6: true, loopback: true };

    fn good() -> Settings {
        Settings {
            ip_forward: Some(1),
            ipv6_forwarding: Some(1),
            rp_filter: Some((0, String::new())),
            routing_rules: Some(0),
            tcp_loose: Some(1),
            route_localnet: Some(Vec::new()),
            conntrack: Some((10, 262_144)),
            bridge_netfilter: None,
            bridges: Some(Vec::new()),
            bridges_to_apiservers: Vec::new(),
        }
    }

    fn of(seen: &Settings, id: &str) -> Verdict {
        let all = settings(seen, ALL);
        all.iter().find(|finding| finding.id == id).unwrap().verdict
    }

    #[test]
    fn a_node_as_it_should_be() {
        assert!(settings(&good(), ALL).iter().all(|finding| finding.verdict == Verdict::Ok));
    }

    #[test]
    fn nothing_is_guessed() {
        for finding in settings(&Settings::default(), ALL) {
            assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        }
    }

    #[test]
    fn each_setting_is_noticed() {
        let here = || "eth0".to_owned();
        assert_eq!(of(&Settings { ip_forward: Some(0), ..good() }, "ip-forward"), Verdict::Warning);
        assert_eq!(of(&Settings { ipv6_forwarding: Some(0), ..good() }, "ipv6-forwarding"), Verdict::Warning);
        let strict = Settings { rp_filter: Some((1, here())), ..good() };
        assert_eq!(of(&strict, "rp-filter"), Verdict::Info);
        assert_eq!(of(&Settings { routing_rules: Some(2), ..strict }, "rp-filter"), Verdict::Warning);
        assert_eq!(of(&Settings { tcp_loose: Some(0), ..good() }, "conntrack-tcp-loose"), Verdict::Info);
        let local = Settings { route_localnet: Some(vec![here()]), ..good() };
        assert_eq!(of(&local, "route-localnet"), Verdict::Warning);
        let mend = settings(&local, ALL)[4].mend.clone().unwrap();
        assert!(
            mend.starts_with(
                "sysctl -w net/ipv4/conf/all/route_localnet=0 net/ipv4/conf/eth0/route_localnet=0 |"
            ),
            "{mend}"
        );
        let guarded = settings(&local, Concerns { loopback: false, ..ALL });
        assert_eq!(guarded[4].verdict, Verdict::Info);
        let bridged =
            Settings { bridges: Some(vec!["cni0".to_owned()]), bridge_netfilter: Some(0), ..good() };
        assert_eq!(of(&bridged, "bridge-netfilter"), Verdict::Info);
        let same = Settings { bridges_to_apiservers: vec!["cni0".to_owned()], ..bridged.clone() };
        assert_eq!(of(&same, "bridge-netfilter"), Verdict::Warning);
        assert_eq!(of(&Settings { bridge_netfilter: Some(1), ..same }, "bridge-netfilter"), Verdict::Ok);
        assert_eq!(of(&Settings { bridge_netfilter: Some(1), ..bridged }, "bridge-netfilter"), Verdict::Ok);
        let unserved = settings(&Settings { ip_forward: Some(0), ..good() }, Concerns { ipv4: false, ..ALL });
        assert_eq!(unserved[0].verdict, Verdict::Ok);
    }

    proptest::proptest! {
        #[test]
        fn a_fuller_table_is_never_better(count in 0..1_000_000i64, more in 0..1_000i64, max in 0..1_000_000i64) {
            let less = conntrack(Some((count, max))).verdict;
            proptest::prop_assert!(less <= conntrack(Some((count + more, max))).verdict);
        }
    }

    #[test]
    fn the_table_is_judged_by_its_share() {
        let verdict = |count| conntrack(Some((count, 100))).verdict;
        assert_eq!([74, 75, 94, 95, 100].map(verdict), {
            use Verdict::{Fail, Ok, Warning};
            [Ok, Warning, Warning, Fail, Fail]
        });
    }
}
