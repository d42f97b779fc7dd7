//! The verdict on policies that drop what the virtual IP needs. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{NEEDED, Traces, legacy_table, neighbour, rules};
use crate::check::finding::{Check, Finding};
use crate::columns::few;
use crate::nftables::inventory::SeenChain;

const ALLOW: &str = "allow Pods to the apiservers' addresses and ports in forward, and ct state established,related everywhere";

/// The number of the hook.
const INPUT: u32 = 1;

const FIREWALL: Check = neighbour("firewall", "firewalls and policies that drop");

pub(super) fn firewall(traces: &Traces) -> Finding {
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
    let who = match (firewalld, ufw) {
        (true, true) => "firewalld and ufw: ",
        (true, false) => "firewalld: ",
        (false, true) => "ufw: ",
        (false, false) => "",
    };
    if firewalld || !dropping.is_empty() {
        let what = if dropping.is_empty() {
            "rejects what no zone allows".to_owned()
        } else {
            format!("policies drop what no rule allows: {}", few(&dropping))
        };
        return FIREWALL.warning(
            format!("{who}{what}"),
            match () {
                () if firewalld => format!("firewall-cmd --list-all-zones: {ALLOW}"),
                () if ufw => routed(&traces.apiservers),
                () => accepting(&closed, &traces.apiservers),
            },
        );
    }
    match legacy_table(traces, "filter") {
        Ok(Some(command)) => FIREWALL.unknown(
            format!("{who}iptables has a table filter of the legacy kind, whose policies cannot be read over netlink"),
            format!("{command} -S | grep -- -P: FORWARD must be ACCEPT, or let Pods reach the apiservers"),
        ),
        Err(error) => FIREWALL.unknown(error, "sudo apivip check"),
        Ok(None) if ufw => FIREWALL.info("ufw is there, and its policies accept"),
        Ok(None) => FIREWALL.ok("no policy drops"),
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
