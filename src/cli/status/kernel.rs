//! What the kernel holds of apivip while no daemon answers: the rules go on working without it.

use crate::columns::{Cell, Columns};
use crate::nftables::decode::ObservedTable;
use crate::nftables::names;
use crate::nftables::socket::NftSocket;

/// Some lines for people. `absent`: there is no daemon with this `--run-dir`; else it only did not answer.
pub(super) fn text(absent: bool) -> String {
    match NftSocket::open().and_then(|mut socket| socket.observe()) {
        Ok(observed) => describe(&observed, absent),
        Err(error) => format!("{}, and nf_tables does not say what it holds: {error}\n", head(absent)),
    }
}

fn head(absent: bool) -> &'static str {
    if absent { "no daemon answers" } else { "the daemon did not answer" }
}

fn describe(observed: &ObservedTable, absent: bool) -> String {
    let head = head(absent);
    if !observed.exists {
        return format!(
            "{head}, and the kernel has no table inet apivip: no rules of apivip lead to apiservers\n"
        );
    }
    let vips = observed.chains.iter().filter_map(|chain| names::frontend(&chain.name));
    let vips: Vec<String> = vips.map(|vip| vip.to_string()).collect();
    let served = if vips.is_empty() { "no virtual IP".to_owned() } else { vips.join(", ") };
    let mut text =
        format!("{head}, but the kernel has table inet apivip, which goes on serving {served} as it did\n");
    match (observed.owner, absent) {
        (Some(port), true) => text.push_str(&format!(
            "it belongs to netlink port {port} (often a pid), which lives: a daemon with another --run-dir?\n"
        )),
        (None, true) => text.push_str("nobody asks these apiservers whether they live\n"),
        (_, false) => {}
    }
    let mut backends: Vec<_> = observed
        .counters
        .iter()
        .filter_map(|(name, count)| names::backend(name).map(|backend| (backend, count.packets)))
        .collect();
    backends.sort_unstable();
    let mut columns = Columns::new(2, false);
    columns.push(["BACKEND", "CONNECTIONS", "NOTE"].map(Cell::from));
    for (backend, connections) in backends {
        let is_dead = observed.dead.contains(&backend);
        let note = if is_dead { "did not answer, gets no new connections" } else { "" };
        columns.push([backend.to_string(), connections.to_string(), note.to_owned()].map(Cell::from));
    }
    text.push_str(&columns.to_string());
    let resets = observed.counters.iter().filter(|(name, _)| names::reset(name).is_some());
    let resets: u64 = resets.map(|(_, count)| count.packets).sum();
    if resets > 0 {
        text.push_str(&format!("{resets} resets were sent in place of apiservers that did not answer\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::decode::{Count, ObservedChain};

    #[test]
    fn people_read_addresses_and_no_names_of_the_table() {
        let chains = ["nat-output", "vip-10.96.0.1-443", "vip-fd00_10_96__1-443", "dead-10.96.0.1-443"];
        let chain = |name: &str| ObservedChain { name: name.to_owned(), base: None };
        let counters = [
            ("backend-192.0.2.11-6443", 12),
            ("backend-192.0.2.9-6443", 5),
            ("backend-2001_db8__b-6443", 7),
            ("reset-10.96.0.1-443", 2),
            ("reset-fd00_10_96__1-443", 1),
            ("somebody-else", 1),
        ];
        let counter =
            |(name, packets): (&str, u64)| (name.to_owned(), Count { packets, bytes: 60 * packets });
        let observed = ObservedTable {
            exists: true,
            chains: chains.map(chain).into(),
            counters: counters.map(counter).into(),
            dead: ["192.0.2.11:6443".parse().unwrap()].into(),
            ..ObservedTable::default()
        };
        let expected = [
            "no daemon answers, but the kernel has table inet apivip, which goes on serving 10.96.0.1:443, [fd00:10:96::1]:443 as it did",
            "nobody asks these apiservers whether they live",
            "  BACKEND              CONNECTIONS   NOTE",
            "  192.0.2.9:6443       5",
            "  192.0.2.11:6443      12            did not answer, gets no new connections",
            "  [2001:db8::b]:6443   7",
            "3 resets were sent in place of apiservers that did not answer",
            "",
        ];
        assert_eq!(describe(&observed, true), expected.join("\n"));
        // Where nothing is known of a daemon, nothing is said of what it does.
        let hangs = describe(&observed, false);
        assert!(hangs.starts_with("the daemon did not answer, but") && !hangs.contains("nobody"), "{hangs}");
        let elsewhere = describe(&ObservedTable { owner: Some(7), ..observed }, true);
        assert!(elsewhere.contains("netlink port 7") && !elsewhere.contains("nobody"), "{elsewhere}");
        let nothing = describe(&ObservedTable::default(), false);
        assert!(nothing.contains("no table inet apivip: no rules of apivip"), "{nothing}");
    }
}
