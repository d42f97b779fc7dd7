//! Checks of paths on which packets of Pods bypass the host's netfilter. Pure.
//!
//! In: devices, flowtables and virtual functions ([`BypassPaths`]). Out: a finding for each kind of path.

use super::report::{Check, Finding, Group};
use crate::columns::few;
use crate::nftables::inventory::RulesetInventory;
use crate::routes::links::{OtherNetnsLinks, SeenLink};

/// Devices, flowtables and virtual functions whose packets bypass netfilter.
#[derive(Clone, Debug, Default)]
pub struct BypassPaths {
    /// Devices of this namespace, or why they cannot be listed.
    pub links: Option<Result<Vec<SeenLink>, String>>,
    /// Macvlan devices and their like in other namespaces, or why those cannot be entered.
    pub elsewhere: Option<Result<OtherNetnsLinks, String>>,
    /// Devices with virtual functions, and virtual functions, of SR-IOV; why `/sys/class/net` cannot be believed.
    pub virtual_functions: Option<Result<Vec<String>, String>>,
    /// What is in nf_tables.
    pub rules: Option<Result<RulesetInventory, String>>,
    /// The network cards that this namespace has.
    pub cards: Vec<String>,
}

const fn bypass(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Bypass, title }
}

const MACVLAN: Check = bypass("macvlan", "macvlan and ipvlan devices");
const SRIOV: Check = bypass("sr-iov", "virtual functions of network cards");
const FLOWTABLES: Check = bypass("flowtables", "flow offload by nf_tables");
const HARDWARE: Check = bypass("hw-tc-offload", "flow offload by the network card");

/// Kinds of devices that send by their parent, past the hooks of the host.
pub const KINDS: &[&str] = &["macvlan", "macvtap", "ipvlan", "ipvtap"];

const LISTEN: &str = "apivip run --listen 127.0.0.1:7445 serves programs on the node; such Pods do not reach the virtual IP through apivip";

/// All findings.
pub fn findings(paths: &BypassPaths) -> Vec<Finding> {
    vec![macvlan(paths), sriov(paths), flowtables(paths), hardware(paths)]
}

fn macvlan(paths: &BypassPaths) -> Finding {
    let links = match &paths.links {
        Some(Ok(links)) => links,
        Some(Err(error)) => return MACVLAN.unknown(error.as_str(), "ip -d link show"),
        None => return MACVLAN.unknown("listing network devices timed out", "ip -d link show"),
    };
    let here = links.iter().filter(|link| KINDS.contains(&link.kind.as_str()));
    let mut found: Vec<String> = here.map(|link| format!("{} ({})", link.name, link.kind)).collect();
    let incomplete = match &paths.elsewhere {
        Some(Ok(OtherNetnsLinks { links, incomplete })) => {
            found.extend(links.iter().map(|link| format!("{} ({}, in a Pod)", link.name, link.kind)));
            incomplete.clone()
        }
        Some(Err(error)) => Some(error.clone()),
        None => Some("the inspection timed out".to_owned()),
    };
    match incomplete {
        _ if !found.is_empty() => {
            MACVLAN.warning(format!("packets of these devices bypass netfilter: {}", few(&found)), LISTEN)
        }
        None => MACVLAN.ok("none in this or other network namespaces of the node"),
        Some(why) => MACVLAN.unknown(
            format!("none here; some other network namespaces cannot be inspected: {why}"),
            "sudo apivip check on the node itself, or in a Pod with hostPID",
        ),
    }
}

fn sriov(paths: &BypassPaths) -> Finding {
    match &paths.virtual_functions {
        Some(Ok(found)) if found.is_empty() => SRIOV.ok("none"),
        Some(Ok(found)) => {
            SRIOV.warning(format!("packets of these devices bypass netfilter: {}", few(found)), LISTEN)
        }
        Some(Err(error)) => {
            SRIOV.unknown(error.as_str(), "mount -t sysfs sysfs /sys, in this network namespace")
        }
        None => {
            SRIOV.unknown("reading /sys/class/net timed out", "grep . /sys/class/net/*/device/sriov_numvfs")
        }
    }
}

fn flowtables(paths: &BypassPaths) -> Finding {
    let survey = match &paths.rules {
        Some(Ok(survey)) => survey,
        Some(Err(error)) => {
            return FLOWTABLES.unknown(error.as_str(), "sudo apivip check: the check requires CAP_NET_ADMIN");
        }
        None => return FLOWTABLES.unknown("nf_tables did not answer in time", "nft list flowtables"),
    };
    let found: Vec<String> = survey
        .flowtables
        .iter()
        .map(|table| format!("{}{}", table.name, if table.hardware { " (in hardware)" } else { "" }))
        .collect();
    if found.is_empty() {
        return FLOWTABLES.ok("no flowtable exists");
    }
    FLOWTABLES.warning(
        format!("offloaded connections bypass the rules that reset clients of a failed API server: {}", few(&found)),
        format!(
            "nft list flowtable {}: exclude connections to the ports of API servers, no flow add for tcp dport 443 and 6443",
            survey.flowtables[0].name
        ),
    )
}

fn hardware(paths: &BypassPaths) -> Finding {
    let fix = match (&paths.links, paths.cards.as_slice()) {
        (Some(Ok(_)), []) => return HARDWARE.ok("no network card in this network namespace"),
        (_, []) => "ls -d /sys/class/net/*/device: each result is a network card".to_owned(),
        (_, [card]) => format!("ethtool -k {card} | grep hw-tc-offload"),
        (_, cards) => format!(
            "for card in {}; do ethtool -k $card | grep -e Features -e hw-tc-offload; done",
            cards.join(" ")
        ),
    };
    HARDWARE.unknown("the features of network cards cannot be read without ethtool", fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Verdict;
    use crate::nftables::inventory::SeenFlowtable;

    fn clean() -> BypassPaths {
        BypassPaths {
            links: Some(Ok(vec![SeenLink {
                name: "eth0".to_owned(),
                index: 2,
                kind: "veth".to_owned(),
                parent: Some(0),
            }])),
            elsewhere: Some(Ok(OtherNetnsLinks::default())),
            virtual_functions: Some(Ok(Vec::new())),
            rules: Some(Ok(RulesetInventory::default())),
            cards: Vec::new(),
        }
    }

    fn verdicts(paths: &BypassPaths) -> [Verdict; 4] {
        let all: Vec<Verdict> = findings(paths).iter().map(|finding| finding.verdict).collect();
        all.try_into().unwrap()
    }

    #[test]
    fn each_bypass_path_is_a_warning() {
        use Verdict::{Ok, Unknown, Warning};
        assert_eq!(verdicts(&clean()), [Ok; 4]);
        let link = SeenLink { name: "mv0".to_owned(), index: 3, kind: "macvlan".to_owned(), parent: None };
        assert_eq!(
            verdicts(&BypassPaths { links: Some(std::result::Result::Ok(vec![link])), ..clean() })[0],
            Warning
        );
        let link = SeenLink { name: "iv0".to_owned(), index: 3, kind: "ipvlan".to_owned(), parent: Some(1) };
        let in_pod = OtherNetnsLinks { links: vec![link], incomplete: Some("no".to_owned()) };
        let elsewhere = |found| BypassPaths { elsewhere: found, ..clean() };
        assert_eq!(verdicts(&elsewhere(Some(std::result::Result::Ok(in_pod))))[0], Warning);
        let incomplete = OtherNetnsLinks { links: Vec::new(), incomplete: Some("no".to_owned()) };
        assert_eq!(verdicts(&elsewhere(Some(std::result::Result::Ok(incomplete))))[0], Unknown);
        assert_eq!(verdicts(&elsewhere(None))[0], Unknown);
        let functions = Some(std::result::Result::Ok(vec!["eth1".to_owned()]));
        assert_eq!(verdicts(&BypassPaths { virtual_functions: functions, ..clean() })[1], Warning);
        let table = SeenFlowtable { name: "inet f t".to_owned(), hardware: true };
        let rules = Some(std::result::Result::Ok(RulesetInventory {
            flowtables: vec![table],
            ..RulesetInventory::default()
        }));
        let offloaded = findings(&BypassPaths { rules, ..clean() });
        assert_eq!(offloaded[2].verdict, Warning);
        assert!(
            offloaded[2].fix.as_ref().unwrap().starts_with("nft list flowtable inet f t: "),
            "{offloaded:?}"
        );
        for (cards, words) in [
            (vec!["eth1"], "ethtool -k eth1 |"),
            (vec!["eth1", "eth2"], "for card in eth1 eth2; do ethtool -k $card |"),
        ] {
            let cards = cards.into_iter().map(str::to_owned).collect();
            let found = findings(&BypassPaths { cards, ..clean() });
            assert_eq!(found[3].verdict, Unknown);
            assert!(found[3].fix.as_ref().unwrap().starts_with(words), "{found:?}");
        }
        assert_eq!(verdicts(&BypassPaths::default()), [Unknown; 4]);
        let denied = Some(Err("no".to_owned()));
        let incomplete = BypassPaths {
            links: Some(Err("no".to_owned())),
            elsewhere: None,
            virtual_functions: denied,
            rules: Some(Err("no".to_owned())),
            cards: Vec::new(),
        };
        assert_eq!(verdicts(&incomplete), [Unknown; 4]);
    }
}
