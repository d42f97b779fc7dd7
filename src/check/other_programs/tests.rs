use super::*;
use crate::check::report::Verdict;
use crate::nftables::inventory::{SeenBase, SeenTable};

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 1], 443))
}

fn apiserver() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 11], 6443))
}

fn clean() -> ProgramTraces {
    ProgramTraces {
        rules: Some(Ok(RulesetInventory::default())),
        links: Some(Ok(Vec::new())),
        legacy: Some(Ok(Vec::new())),
        ipvs: Some(false),
        dialled: vec![(vip(), Ok(vip()))],
        forwards: false,
        apiservers: BTreeSet::from([apiserver()]),
        bpf: Some(Ok(Vec::new())),
    }
}

fn of(traces: &ProgramTraces, id: &str) -> Finding {
    findings(traces).into_iter().find(|finding| finding.id == id).unwrap()
}

fn verdict(traces: &ProgramTraces, id: &str) -> Verdict {
    of(traces, id).verdict
}

fn with(survey: RulesetInventory) -> ProgramTraces {
    ProgramTraces { rules: Some(Ok(survey)), ..clean() }
}

fn table(family: &'static str, name: &str) -> SeenTable {
    SeenTable { family, name: name.to_owned(), ..SeenTable::default() }
}

fn chain(table: &str, name: &str, base: Option<(&str, u32, i32, bool)>) -> SeenChain {
    let base =
        base.map(|(kind, hook, priority, drops)| SeenBase { kind: kind.to_owned(), hook, priority, drops });
    SeenChain { family: "ip", table: table.to_owned(), name: name.to_owned(), base }
}

fn device(name: &str) -> ProgramTraces {
    ProgramTraces {
        links: Some(Ok(vec![SeenLink { name: name.to_owned(), ..SeenLink::default() }])),
        ..clean()
    }
}

fn pinned(name: &str) -> ProgramTraces {
    ProgramTraces { bpf: Some(Ok(vec![name.to_owned()])), ..clean() }
}

#[test]
fn node_without_other_programs_is_ok() {
    assert!(findings(&clean()).iter().all(|finding| finding.verdict == Verdict::Ok));
}

#[test]
fn unreadable_traces_are_unknown() {
    for finding in findings(&ProgramTraces::default()) {
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        assert!(finding.fix.is_some());
    }
}

#[test]
fn each_mode_of_kube_proxy_is_recognised() {
    let nft = RulesetInventory { tables: vec![table("ip", "kube-proxy")], ..RulesetInventory::default() };
    let iptables =
        RulesetInventory { chains: vec![chain("nat", "KUBE-SERVICES", None)], ..RulesetInventory::default() };
    for (traces, word) in [
        (with(nft.clone()), "nftables"),
        (with(iptables.clone()), "iptables"),
        (device("kube-ipvs0"), "IPVS"),
    ] {
        let found = of(&traces, "kube-proxy");
        assert_eq!(found.verdict, Verdict::Info);
        assert!(found.evidence.contains(word), "{found:?}");
    }
    assert!(has_iptables_proxy(&with(iptables.clone())) && !has_iptables_proxy(&with(nft.clone())));
    assert_eq!(verdict(&ProgramTraces { ipvs: Some(true), ..clean() }, "kube-proxy"), Verdict::Info);
    let both = RulesetInventory { chains: iptables.chains, ..nft };
    assert_eq!(verdict(&with(both), "kube-proxy"), Verdict::Warning);
}

fn legacy(command: &'static str, names: &[&str]) -> ProgramTraces {
    let table = |name: &&str| LegacyTable { command, name: (*name).to_owned() };
    ProgramTraces { legacy: Some(Ok(names.iter().map(table).collect())), ..clean() }
}

#[test]
fn missing_kube_proxy_is_unknown_unless_every_mode_was_checked() {
    for (traces, words) in [
        (legacy("ip6tables-legacy", &["filter", "nat"]), "ip6tables-legacy -t nat -nL KUBE-SERVICES"),
        (ProgramTraces { legacy: Some(Err("denied".to_owned())), ..clean() }, "denied"),
        (ProgramTraces { legacy: None, ..clean() }, "timed out"),
        (
            ProgramTraces { links: Some(Err("denied".to_owned())), ..clean() },
            "IPVS mode cannot be detected: denied",
        ),
        (ProgramTraces { links: None, ..clean() }, "ip link show dev kube-ipvs0"),
        (ProgramTraces { ipvs: None, ..clean() }, "ipvsadm -Ln"),
    ] {
        let found = of(&traces, "kube-proxy");
        assert_eq!(found.verdict, Verdict::Unknown, "{found:?}");
        assert!(format!("{found:?}").contains(words), "{found:?}");
    }
    assert_eq!(verdict(&legacy("iptables-legacy", &["filter"]), "kube-proxy"), Verdict::Ok);
}

#[test]
fn policies_of_legacy_iptables_are_unknown() {
    for command in ["iptables-legacy", "ip6tables-legacy"] {
        let found = of(&legacy(command, &["filter"]), "firewall");
        assert_eq!(found.verdict, Verdict::Unknown, "{found:?}");
        assert!(found.fix.unwrap().starts_with(&format!("{command} -S | grep -- -P")));
        assert_eq!(verdict(&legacy(command, &["nat"]), "firewall"), Verdict::Ok);
    }
    assert_eq!(
        verdict(&ProgramTraces { legacy: Some(Err("no".to_owned())), ..clean() }, "firewall"),
        Verdict::Unknown
    );
    assert_eq!(verdict(&ProgramTraces { legacy: None, ..clean() }, "firewall"), Verdict::Unknown);
    let drop = chain("filter", "FORWARD", Some(("filter", 2, 0, true)));
    let both = ProgramTraces {
        rules: Some(Ok(RulesetInventory { chains: vec![drop], ..RulesetInventory::default() })),
        ..legacy("iptables-legacy", &["filter"])
    };
    assert_eq!(verdict(&both, "firewall"), Verdict::Warning);
}

#[test]
fn earlier_nat_chain_is_a_warning() {
    let at = |table_name, kind, hook, priority| {
        with(RulesetInventory {
            chains: vec![chain(table_name, "c", Some((kind, hook, priority, false)))],
            ..RulesetInventory::default()
        })
    };
    for (traces, expected) in [
        (at("x", "nat", 0, -110), Verdict::Warning),
        (at("x", "nat", 3, -105), Verdict::Warning),
        (at("x", "nat", 0, -100), Verdict::Ok),
        (at("x", "nat", 4, -200), Verdict::Ok),
        (at("x", "filter", 0, -200), Verdict::Ok),
        (at(TABLE_NAME, "nat", 0, -105), Verdict::Ok),
    ] {
        assert_eq!(verdict(&traces, "nat-order"), expected, "{traces:?}");
    }
    let mut forwards = at("x", "nat", 0, -100);
    forwards.forwards = true;
    assert_eq!(verdict(&forwards, "nat-order"), Verdict::Info, "it comes ahead of the listeners");
    assert!(of(&at("x", "nat", 0, -110), "nat-order").fix.unwrap().starts_with("nft list chain ip x c: "));
}

#[test]
fn drop_policy_is_a_warning_with_rules_to_add() {
    let drop = RulesetInventory {
        chains: vec![chain("filter", "FORWARD", Some(("filter", 2, 0, true)))],
        ..RulesetInventory::default()
    };
    let found = of(&with(drop.clone()), "firewall");
    assert!(found.evidence.contains("ip filter FORWARD"));
    assert_eq!(
        found.fix.unwrap(),
        "nft 'insert rule ip filter FORWARD ip daddr . tcp dport { 192.0.2.11 . 6443 } accept' && \
         nft 'insert rule ip filter FORWARD ct state established,related accept'"
    );
    let no_apiservers = ProgramTraces { apiservers: BTreeSet::new(), ..with(drop.clone()) };
    assert!(of(&no_apiservers, "firewall").fix.unwrap().starts_with("nft list ruleset: "));
    let mut of_ufw = drop;
    of_ufw.chains.push(chain("filter", "ufw-before-input", None));
    assert_eq!(
        of(&with(of_ufw), "firewall").fix.unwrap(),
        "ufw route allow proto tcp to 192.0.2.11 port 6443"
    );
    let firewalld =
        RulesetInventory { tables: vec![table("inet", "firewalld")], ..RulesetInventory::default() };
    assert_eq!(verdict(&with(firewalld), "firewall"), Verdict::Warning);
    let ufw = RulesetInventory {
        chains: vec![chain("filter", "ufw-before-input", None)],
        ..RulesetInventory::default()
    };
    assert_eq!(verdict(&with(ufw), "firewall"), Verdict::Info);
}

#[test]
fn ebpf_load_balancers_are_recognised() {
    assert_eq!(verdict(&device("cilium_host"), "cilium"), Verdict::Unknown);
    let socket = pinned("/sys/fs/bpf/cilium/socketlb/links/cgroup/cil_sock4_connect");
    assert_eq!(verdict(&socket, "cilium"), Verdict::Warning);
    let moved =
        ProgramTraces { dialled: vec![(vip(), Ok(SocketAddr::from(([192, 0, 2, 11], 6443))))], ..clean() };
    assert!(of(&moved, "socket-translation").evidence.contains("192.0.2.11:6443"));
    assert_eq!(verdict(&moved, "socket-translation"), Verdict::Warning);
    let failed = ProgramTraces { dialled: vec![(vip(), Err("no route".to_owned()))], ..clean() };
    assert_eq!(verdict(&failed, "socket-translation"), Verdict::Unknown);
    assert_eq!(verdict(&device("bpfin.cali"), "calico-ebpf"), Verdict::Warning);
    assert_eq!(verdict(&pinned("/sys/fs/bpf/tc/globals/cali_v4_nat"), "calico-ebpf"), Verdict::Warning);
}
