use super::super::finding::Verdict;
use super::*;
use crate::nftables::survey::SeenTable;

fn vip() -> IpAddr {
    IpAddr::from([10, 96, 0, 1])
}

fn backend(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn view(routes: &[(IpAddr, PreferredSource)], taken: bool) -> NodeView {
    let taken_vips = if taken { BTreeSet::from([vip()]) } else { BTreeSet::new() };
    NodeView { preferred: routes.iter().cloned().collect(), taken_vips }
}

fn source(last: u8) -> PreferredSource {
    PreferredSource::Address(SourceAddress::anywhere(backend(last)))
}

fn running(phase: &str, in_use: &str) -> Option<Result<Option<Daemon>, String>> {
    let (phase, in_use) = (phase.to_owned(), in_use.to_owned());
    Some(Ok(Some(Daemon { pid: 7, phase, summary: "x".to_owned(), in_use, stands_in: true })))
}

fn rules(owner: Option<u32>, persists: bool) -> Option<Result<Survey, String>> {
    let table = SeenTable { family: "inet", name: TABLE_NAME.to_owned(), owner, persists };
    Some(Ok(Survey { tables: vec![table], ..Survey::default() }))
}

fn good() -> Here {
    Here {
        run_dir: "/run/apivip".into(),
        state_dir: "/var/lib/apivip".into(),
        service: ServiceKey::default(),
        vips: BTreeSet::from([SocketAddr::new(vip(), 443)]),
        backends: BTreeSet::from([backend(11), backend(12)]),
        routes: Some(Ok(view(
            &[(vip(), source(1)), (backend(11), source(1)), (backend(12), source(1))],
            false,
        ))),
        never_masquerade: false,
        daemon: running("programmed", "nftables"),
        rules: rules(None, false),
        plain: true,
        state: Some(Ok(true)),
    }
}

fn of(seen: &Here, id: &str) -> Verdict {
    let all = here(seen);
    all.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id} in {all:#?}")).verdict
}

fn routed(view: NodeView) -> Here {
    Here { routes: Some(Ok(view)), ..good() }
}

#[test]
fn a_node_as_it_should_be() {
    for finding in here(&good()) {
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }
}

#[test]
fn nothing_is_guessed() {
    for finding in here(&Here::default()) {
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
    }
    let blind = Here { routes: Some(Err("no".to_owned())), rules: Some(Err("no".to_owned())), ..good() };
    assert_eq!((of(&blind, "vip-route"), of(&blind, "table")), (Verdict::Unknown, Verdict::Unknown));
}

#[test]
fn mends_name_what_the_arguments_say() {
    let seen = Here {
        vips: BTreeSet::new(),
        run_dir: "/run/other".into(),
        daemon: Some(Err("no".to_owned())),
        state: None,
        state_dir: "/srv/state".into(),
        service: "kube-system/api".parse().unwrap(),
        ..good()
    };
    let all = here(&seen);
    let mend = |id| all.iter().find(|finding| finding.id == id).unwrap().mend.as_deref().unwrap();
    assert!(mend("virtual-ip").starts_with("kubectl get service -n kube-system api: "));
    assert_eq!(mend("daemon"), "sudo apivip status --run-dir /run/other");
    assert_eq!(mend("saved-state"), "ls -l /srv/state");
}

#[test]
fn routes_to_the_virtual_ip() {
    assert_eq!(of(&routed(view(&[], false)), "vip-route"), Verdict::Info);
    let local = view(&[(vip(), PreferredSource::Local)], false);
    assert_eq!(of(&routed(local.clone()), "vip-bound"), Verdict::Warning);
    let forwarding = Here { daemon: running("forwarding", "forwarder"), ..routed(local) };
    assert_eq!(of(&forwarding, "vip-bound"), Verdict::Ok);
    assert_eq!(of(&routed(view(&[(vip(), PreferredSource::Local)], true)), "vip-bound"), Verdict::Info);
}

#[test]
fn the_source_address_is_right_or_corrected_or_lost() {
    let other = view(&[(vip(), source(1)), (backend(11), source(1)), (backend(12), source(2))], false);
    assert_eq!(of(&routed(other.clone()), "vip-source"), Verdict::Info);
    assert_eq!(of(&Here { never_masquerade: true, ..routed(other) }, "vip-source"), Verdict::Warning);
    let cut_off = view(&[(vip(), source(1)), (backend(11), source(1))], false);
    assert_eq!(of(&routed(cut_off), "vip-source"), Verdict::Fail);
    assert_eq!(of(&Here { backends: BTreeSet::new(), ..good() }, "vip-source"), Verdict::Unknown);
}

#[test]
fn a_daemon_and_its_table_belong_together() {
    let with = |daemon, rules| Here { daemon, rules, plain: false, ..good() };
    let none = || Some(Ok(None));
    let empty = || Some(Ok(Survey::default()));
    let programmed = || running("programmed", "nftables");
    assert_eq!(of(&with(none(), empty()), "daemon"), Verdict::Info);
    assert_eq!(of(&with(Some(Err("no".to_owned())), empty()), "daemon"), Verdict::Unknown);
    assert_eq!(of(&with(running("failed", "nftables"), empty()), "daemon"), Verdict::Fail);
    assert_eq!(of(&with(running("forwarding", "forwarder"), empty()), "daemon"), Verdict::Warning);
    let (phase, in_use) = ("forwarding".to_owned(), "forwarder".to_owned());
    let chosen = Daemon { phase, in_use, ..Daemon::default() };
    assert_eq!(of(&with(Some(Ok(Some(chosen))), empty()), "daemon"), Verdict::Ok);
    for (daemon, rules, expected) in [
        (none(), empty(), Verdict::Ok),
        (programmed(), empty(), Verdict::Fail),
        (running("forwarding", "forwarder"), empty(), Verdict::Ok),
        (programmed(), rules(Some(7), true), Verdict::Ok),
        (none(), rules(Some(7), true), Verdict::Fail),
        (programmed(), rules(None, true), Verdict::Warning),
        (none(), rules(None, true), Verdict::Info),
        (programmed(), rules(None, false), Verdict::Ok),
    ] {
        let seen = with(daemon, rules);
        assert_eq!(of(&seen, "table"), expected, "{seen:?}");
    }
    let owned = here(&with(programmed(), rules(Some(7), true)));
    let save = owned.iter().find(|finding| finding.id == "ruleset-save").unwrap();
    assert!(
        save.evidence.contains("nft -f fails") && save.mend.as_ref().unwrap().contains("--table-owner off")
    );
    assert_eq!(of(&with(none(), rules(None, true)), "ruleset-save"), Verdict::Info);
}

#[test]
fn saved_state_is_there_or_not_or_broken() {
    assert_eq!(of(&Here { state: Some(Ok(false)), ..good() }, "saved-state"), Verdict::Info);
    assert_eq!(
        of(&Here { state: Some(Err("damaged".to_owned())), ..good() }, "saved-state"),
        Verdict::Warning
    );
}
