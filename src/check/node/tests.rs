mod node {
    use super::super::*;
    use crate::check::report::Verdict;
    use crate::nftables::inventory::SeenTable;

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

    fn running(phase: &str, in_use: &str) -> Option<Result<Option<DaemonSummary>, String>> {
        let (phase, in_use) = (phase.to_owned(), in_use.to_owned());
        Some(Ok(Some(DaemonSummary {
            pid: 7,
            phase,
            summary: "x".to_owned(),
            in_use,
            fallback_active: true,
        })))
    }

    fn rules(owner: Option<u32>, persists: bool) -> Option<Result<RulesetInventory, String>> {
        let table = SeenTable { family: "inet", name: TABLE_NAME.to_owned(), owner, persists };
        Some(Ok(RulesetInventory { tables: vec![table], ..RulesetInventory::default() }))
    }

    fn good() -> NodeState {
        NodeState {
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

    fn of(observed: &NodeState, id: &str) -> Verdict {
        let all = findings(observed);
        all.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id} in {all:#?}")).verdict
    }

    fn routed(view: NodeView) -> NodeState {
        NodeState { routes: Some(Ok(view)), ..good() }
    }

    #[test]
    fn healthy_node_is_ok() {
        for finding in findings(&good()) {
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
    }

    #[test]
    fn missing_observations_are_unknown() {
        for finding in findings(&NodeState::default()) {
            assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        }
        let blind =
            NodeState { routes: Some(Err("no".to_owned())), rules: Some(Err("no".to_owned())), ..good() };
        assert_eq!((of(&blind, "vip-route"), of(&blind, "table")), (Verdict::Unknown, Verdict::Unknown));
    }

    #[test]
    fn fixes_contain_the_given_arguments() {
        let observed = NodeState {
            vips: BTreeSet::new(),
            run_dir: "/run/other".into(),
            daemon: Some(Err("no".to_owned())),
            state: None,
            state_dir: "/srv/state".into(),
            service: "kube-system/api".parse().unwrap(),
            ..good()
        };
        let all = findings(&observed);
        let fix = |id| all.iter().find(|finding| finding.id == id).unwrap().fix.as_deref().unwrap();
        assert!(fix("virtual-ip").starts_with("kubectl get service -n kube-system api: "));
        assert_eq!(fix("daemon"), "sudo apivip status --run-dir /run/other");
        assert_eq!(fix("saved-state"), "ls -l /srv/state");
    }

    #[test]
    fn routes_to_the_virtual_ip_have_their_verdicts() {
        assert_eq!(of(&routed(view(&[], false)), "vip-route"), Verdict::Info);
        let local = view(&[(vip(), PreferredSource::Local)], false);
        assert_eq!(of(&routed(local.clone()), "vip-bound"), Verdict::Warning);
        let forwarding = NodeState { daemon: running("forwarding", "forwarder"), ..routed(local) };
        assert_eq!(of(&forwarding, "vip-bound"), Verdict::Ok);
        assert_eq!(of(&routed(view(&[(vip(), PreferredSource::Local)], true)), "vip-bound"), Verdict::Info);
    }

    #[test]
    fn source_address_has_its_verdicts() {
        let other = view(&[(vip(), source(1)), (backend(11), source(1)), (backend(12), source(2))], false);
        assert_eq!(of(&routed(other.clone()), "vip-source"), Verdict::Info);
        assert_eq!(
            of(&NodeState { never_masquerade: true, ..routed(other) }, "vip-source"),
            Verdict::Warning
        );
        let cut_off = view(&[(vip(), source(1)), (backend(11), source(1))], false);
        assert_eq!(of(&routed(cut_off), "vip-source"), Verdict::Fail);
        assert_eq!(of(&NodeState { backends: BTreeSet::new(), ..good() }, "vip-source"), Verdict::Unknown);
    }

    #[test]
    fn table_verdict_depends_on_owner_and_daemon() {
        let with = |daemon, rules| NodeState { daemon, rules, plain: false, ..good() };
        let none = || Some(Ok(None));
        let empty = || Some(Ok(RulesetInventory::default()));
        let programmed = || running("programmed", "nftables");
        assert_eq!(of(&with(none(), empty()), "daemon"), Verdict::Info);
        assert_eq!(of(&with(Some(Err("no".to_owned())), empty()), "daemon"), Verdict::Unknown);
        assert_eq!(of(&with(running("failed", "nftables"), empty()), "daemon"), Verdict::Fail);
        assert_eq!(of(&with(running("forwarding", "forwarder"), empty()), "daemon"), Verdict::Warning);
        let (phase, in_use) = ("forwarding".to_owned(), "forwarder".to_owned());
        let chosen = DaemonSummary { phase, in_use, ..DaemonSummary::default() };
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
            let observed = with(daemon, rules);
            assert_eq!(of(&observed, "table"), expected, "{observed:?}");
        }
        let owned = findings(&with(programmed(), rules(Some(7), true)));
        let save = owned.iter().find(|finding| finding.id == "ruleset-save").unwrap();
        assert!(
            save.evidence.contains("nft -f fails")
                && save.fix.as_ref().unwrap().contains("--table-owner off")
        );
        assert_eq!(of(&with(none(), rules(None, true)), "ruleset-save"), Verdict::Info);
    }

    #[test]
    fn saved_state_has_its_verdicts() {
        assert_eq!(of(&NodeState { state: Some(Ok(false)), ..good() }, "saved-state"), Verdict::Info);
        assert_eq!(
            of(&NodeState { state: Some(Err("damaged".to_owned())), ..good() }, "saved-state"),
            Verdict::Warning
        );
    }
}

mod daemon {
    use super::super::*;
    use crate::check::report::Verdict;
    use crate::model::verdict::Severity;
    use crate::status::sample;

    fn verdicts(status: &Status) -> Vec<(&'static str, Verdict)> {
        let value = serde_json::to_value(status).unwrap();
        let found = daemon_findings(Some(&value), Path::new("/run/apivip"));
        found.into_iter().map(|finding| (finding.id, finding.verdict)).collect()
    }

    #[test]
    fn failed_self_test_fails_the_check() {
        let mut status = sample();
        (status.problems, status.selftests) = (Vec::new(), vec![test(true, None, Some("rules"))]);
        let good = [("self-test", Verdict::Ok), ("daemon-problems", Verdict::Ok)];
        assert_eq!(verdicts(&status), good);
        for bad in [test(false, Some("timeout"), None), test(true, None, Some("other_program_dnat"))] {
            status.selftests = vec![bad];
            status.problems = Vec::new();
            assert_eq!(verdicts(&status)[0], ("self-test", Verdict::Fail));
        }
        status.selftests = vec![test(true, Some("timeout"), Some("rules"))];
        assert_eq!(verdicts(&status)[0], ("self-test", Verdict::Warning));
    }

    #[test]
    fn problem_of_the_daemon_is_one_warning() {
        let mut status = sample();
        status.selftests = vec![test(false, Some("timeout"), None)];
        let problem = |message: String| crate::status::Problem {
            severity: Severity::Warning,
            message,
            action: "Fix it".to_owned(),
        };
        let repeated = format!("Connection from this node to it {}", status.selftests[0].result());
        status.problems = vec![problem("192.0.2.11:6443 failed 3s ago".to_owned()), problem(repeated)];
        let expected = [("self-test", Verdict::Fail), ("daemon-problems", Verdict::Warning)];
        assert_eq!(verdicts(&status), expected);
        status.problems[0].severity = Severity::Critical;
        assert_eq!(verdicts(&status)[1], ("daemon-problems", Verdict::Fail));
    }

    #[test]
    fn unreadable_status_is_unknown_and_missing_status_has_no_findings() {
        let other = serde_json::json!({"pid": 1});
        let found = daemon_findings(Some(&other), Path::new("/run/apivip"));
        assert_eq!(found[0].verdict, Verdict::Unknown);
        assert!(daemon_findings(None, Path::new("/run/apivip")).is_empty());
    }

    fn test(ready: bool, failure: Option<&str>, by: Option<&str>) -> crate::status::SelfTestStatus {
        crate::status::SelfTestStatus {
            vip: "10.96.0.1:443".parse().unwrap(),
            ready,
            failure: failure.map(str::to_owned),
            consecutive_failures: u32::from(failure.is_some()) * 2,
            latency_us: failure.is_none().then_some(500),
            seconds_ago: 1,
            answered_seconds_ago: None,
            answered_by: by.map(str::to_owned),
            explanation: by.map(str::to_owned),
            backend: None,
            pod_traffic: "unknown".to_owned(),
            pod_connections_blocked: None,
        }
    }
}
