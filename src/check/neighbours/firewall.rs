//! The verdict on policies that drop what the virtual IP needs. Pure.

use super::{NEEDED, Traces, legacy_table, neighbour, rules};
use crate::check::finding::{Check, Finding};
use crate::columns::few;
use crate::dataplane::nft::survey::SeenChain;

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
    let dropping: Vec<String> = survey
        .chains
        .iter()
        .filter(drops)
        .map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name))
        .collect();
    let firewalld = survey.tables.iter().any(|table| table.name == "firewalld");
    let ufw =
        survey.chains.iter().any(|chain| chain.name.starts_with("ufw-") || chain.name.starts_with("ufw6-"));
    let who = match (firewalld, ufw) {
        (true, true) => "firewalld and ufw: ",
        (true, false) => "firewalld: ",
        (false, true) => "ufw: ",
        (false, false) => "",
    };
    let show = match dropping.first() {
        _ if firewalld => "firewall-cmd --list-all-zones".to_owned(),
        _ if ufw => "ufw status verbose".to_owned(),
        Some(chain) => format!("nft list chain {chain}"),
        None => "nft list ruleset".to_owned(),
    };
    if firewalld || !dropping.is_empty() {
        let what = if dropping.is_empty() {
            "rejects what no zone allows".to_owned()
        } else {
            format!("policies drop what no rule allows: {}", few(&dropping))
        };
        return FIREWALL.warning(
            format!("{who}{what}"),
            format!("{show}: allow Pods to the apiservers' addresses and ports in forward, and ct state established,related everywhere"),
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
