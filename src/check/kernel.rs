//! Verdicts on what the kernel can and on what this process may. Pure.

use super::finding::{Check, Finding, Group};
use crate::kernel_features::{Feature, Outcome, Tried};

/// What was tried of the kernel.
pub type Trial = Result<Vec<Tried>, String>;

const fn kernel(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Kernel, title }
}

const fn privilege(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Privileges, title }
}

const NET_ADMIN: Check = privilege("cap-net-admin", "may change rules and routes");
const BIND: Check = privilege("cap-net-bind-service", "may listen on ports below 1024");
const NET_RAW: Check = privilege("cap-net-raw", "may forge and overhear packets");
const SYS_ADMIN: Check = privilege("cap-sys-admin", "may make a network namespace, for this check only");

/// Bits of `include/uapi/linux/capability.h`.
const CAPABILITIES: [(Check, u32); 4] = [(NET_ADMIN, 12), (BIND, 10), (NET_RAW, 13), (SYS_ADMIN, 21)];

const GRANT: &str = "systemctl edit apivip: CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW; in a Pod securityContext.capabilities.add";

/// What is lost without a feature.
enum Loss {
    /// Rules do not work at all: the forwarder stands in.
    Rules(&'static str),
    /// Something is lost.
    Part(&'static str, &'static str),
    /// Only the forwarder cannot stand in.
    Forwarder(&'static str),
}

/// The check of a feature, what it says when the feature is there, and what is lost when it is not.
fn about(feature: Feature) -> (Check, &'static str, Loss) {
    use Loss::{Forwarder, Part, Rules};
    const NFT: &str = "modprobe nf_tables; a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET";
    match feature {
        Feature::NfTables => {
            (kernel("kernel-nf-tables", "nf_tables"), "takes a table of family inet", Rules(NFT))
        }
        Feature::Nat => (
            kernel("kernel-nat", "NAT in family inet"),
            "translates in prerouting, output and postrouting",
            Rules(
                "modprobe -a nft_chain_nat nft_masq; a kernel from 5.2 with CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
            ),
        ),
        Feature::Reject => (
            kernel("kernel-reject", "TCP reset in prerouting"),
            "rejects in prerouting",
            Rules("modprobe nft_reject_inet; a kernel from 5.9 with CONFIG_NFT_REJECT_INET"),
        ),
        Feature::Fib => (
            kernel("kernel-fib", "route lookups in rules"),
            "knows local addresses in rules",
            Rules("modprobe nft_fib_inet; a kernel with CONFIG_NFT_FIB_INET"),
        ),
        Feature::Balance => (
            kernel("kernel-balance", "random choice in rules"),
            "chooses by numgen and a map of verdicts",
            Rules("modprobe nft_numgen; a kernel with CONFIG_NFT_NUMGEN"),
        ),
        Feature::ClientHash => (
            kernel("kernel-client-hash", "choice by client address"),
            "chooses by jhash",
            Part(
                "a Service with sessionAffinity ClientIP is not programmed; the forwarder stands in",
                "modprobe nft_hash; a kernel with CONFIG_NFT_HASH",
            ),
        ),
        Feature::ConntrackRules => (
            kernel("kernel-conntrack-rules", "conntrack in rules"),
            "matches flows and keeps packets from conntrack",
            Rules("modprobe nft_ct; a kernel with CONFIG_NFT_CT"),
        ),
        Feature::WholeTable => (
            kernel("kernel-table", "the daemon's whole table"),
            "takes the table of a node with IPv4, IPv6 and a dead apiserver",
            Rules(
                "modprobe -a nf_tables nft_chain_nat nft_ct nft_fib_inet nft_hash nft_masq nft_numgen nft_reject_inet",
            ),
        ),
        Feature::TableOwner => (
            kernel("kernel-table-owner", "tables that belong to the daemon"),
            "knows the flags owner and persist",
            Part(
                "any program may change or flush the table; the daemon notices and puts it right",
                "apivip run --table-owner off, or a kernel from 6.9",
            ),
        ),
        Feature::ConntrackNetlink => (
            kernel("kernel-conntrack-netlink", "conntrack's entries"),
            "lists the entry of a connection",
            Part(
                "flows to a dead apiserver are ended only when their client sends something",
                "modprobe nf_conntrack_netlink; a kernel with CONFIG_NF_CT_NETLINK",
            ),
        ),
        Feature::ConntrackFilter => (
            kernel("kernel-conntrack-filter", "conntrack's filter"),
            "lists the entries asked for only",
            Part(
                "all entries of the node are listed when an apiserver dies: slower with very many flows",
                "uname -r: a kernel from 5.8 has it",
            ),
        ),
        Feature::SocketDestroy => (
            kernel("kernel-sock-destroy", "destroying sockets"),
            "destroys a socket of the host",
            Part(
                "the node's own connections to a dead apiserver are told like those of Pods",
                "grep CONFIG_INET_DIAG_DESTROY= /boot/config-$(uname -r): a kernel in which it is y",
            ),
        ),
        Feature::RawSockets => (
            kernel("kernel-raw-sockets", "raw sockets"),
            "opens raw sockets",
            Part("idle clients of a dead apiserver are not told", GRANT),
        ),
        Feature::PacketSockets => (
            kernel("kernel-packet-sockets", "packet sockets"),
            "opens packet sockets with a filter",
            Part(
                "where rules are refused, clients of a dead apiserver are not answered",
                "modprobe af_packet; a kernel with CONFIG_PACKET",
            ),
        ),
        Feature::Tun => (
            kernel("kernel-tun", "tun device"),
            "makes a tun device",
            Forwarder("modprobe tun; ls -l /dev/net/tun"),
        ),
        Feature::LocalRoutes => (
            kernel("kernel-local-routes", "local routes"),
            "makes an address local by a route",
            Forwarder("grep CONFIG_IP_MULTIPLE_TABLES= /boot/config-$(uname -r): a kernel in which it is y"),
        ),
        Feature::RoutingRules => (
            kernel("kernel-routing-rules", "routing rules with a port"),
            "takes a rule with protocol and port",
            Forwarder("uname -r: a kernel from 4.17 with CONFIG_IP_MULTIPLE_TABLES"),
        ),
    }
}

/// One finding for each feature. `forwards`: the operator lets the forwarder stand in.
pub fn features(trial: &Trial, forwards: bool) -> Vec<Finding> {
    Feature::ALL.into_iter().map(|feature| of_feature(feature, trial, forwards)).collect()
}

fn of_feature(feature: Feature, trial: &Trial, forwards: bool) -> Finding {
    let (check, works, loss) = about(feature);
    let tried = match trial {
        Err(error) => {
            let why = format!("cannot make a network namespace to try it in: {error}");
            return check.unknown(why, "sudo apivip check: it needs CAP_SYS_ADMIN");
        }
        Ok(tried) => tried.iter().find(|(tried, _)| *tried == feature),
    };
    let reason = match tried {
        Some((_, Outcome::Works)) => return check.ok(works),
        Some((_, Outcome::Missing(reason))) => reason,
        Some((_, Outcome::Forbidden(reason))) => {
            let needed = match feature {
                Feature::RawSockets | Feature::PacketSockets => "sudo apivip check: it needs CAP_NET_RAW",
                _ => "sudo apivip check: it needs CAP_NET_ADMIN",
            };
            return check.unknown(reason, needed);
        }
        Some((_, Outcome::Unclear(reason))) => {
            return check.unknown(reason, "dmesg | tail, then apivip check again");
        }
        None => {
            return check.unknown(
                "not reached: what comes before it failed or hung",
                "dmesg | tail, then apivip check again",
            );
        }
    };
    match loss {
        Loss::Rules(needs) if forwards => {
            check.warning(format!("rules do not work, the forwarder stands in: {reason}"), needs)
        }
        Loss::Rules(needs) => {
            check.fail(format!("rules do not work: {reason}"), format!("{needs}; or --mode auto"))
        }
        Loss::Part(loss, needs) => check.warning(format!("{loss}: {reason}"), needs),
        Loss::Forwarder(needs) => {
            check.warning(format!("the forwarder cannot stand in where rules are refused: {reason}"), needs)
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
        "cap-net-admin" => check
            .fail("missing: apivip run does not start without it, and much cannot be looked at here", GRANT),
        "cap-net-bind-service" => check.warning(
            "missing: where rules are refused, the forwarder cannot listen on a virtual IP's port below 1024",
            GRANT,
        ),
        "cap-net-raw" => check
            .warning("missing: clients of a dead apiserver are told only when they send something", GRANT),
        _ => check.info("missing: kernel features cannot be tried; apivip run does not need it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn verdicts(outcome: &Outcome, forwards: bool) -> Vec<Verdict> {
        let tried = Feature::ALL.map(|feature| (feature, outcome.clone())).to_vec();
        features(&Ok(tried), forwards).iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn every_feature_is_ok_or_a_loss_that_is_named() {
        assert!(verdicts(&Outcome::Works, true).iter().all(|verdict| *verdict == Verdict::Ok));
        let missing = Outcome::Missing("Operation not supported".to_owned());
        assert!(verdicts(&missing, true).iter().all(|verdict| *verdict == Verdict::Warning));
        assert_eq!(verdicts(&missing, false).iter().filter(|verdict| **verdict == Verdict::Fail).count(), 7);
        let tried = Feature::ALL.map(|feature| (feature, missing.clone())).to_vec();
        for finding in features(&Ok(tried), true) {
            assert!(finding.evidence.contains("Operation not supported"), "{finding:?}");
            assert!(finding.mend.is_some());
        }
    }

    #[test]
    fn what_could_not_be_tried_is_unknown_with_what_it_needs() {
        for outcome in [Outcome::Forbidden("x".to_owned()), Outcome::Unclear("x".to_owned())] {
            assert!(verdicts(&outcome, false).iter().all(|verdict| *verdict == Verdict::Unknown));
        }
        let denied = Err("Operation not permitted".to_owned());
        for finding in [features(&denied, true), features(&Ok(Vec::new()), true)].concat() {
            assert_eq!(finding.verdict, Verdict::Unknown);
            assert!(finding.mend.is_some());
        }
    }

    #[test]
    fn capabilities_are_bits() {
        let of = |set| capabilities(set).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(of(Some(u64::MAX)), [Verdict::Ok; 4]);
        assert_eq!(of(Some(0)), [Verdict::Fail, Verdict::Warning, Verdict::Warning, Verdict::Info]);
        assert_eq!(of(Some(1 << 12)), [Verdict::Ok, Verdict::Warning, Verdict::Warning, Verdict::Info]);
        assert_eq!(of(None), [Verdict::Unknown; 4]);
    }
}
