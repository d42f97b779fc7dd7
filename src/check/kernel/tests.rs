mod features {
    use super::super::*;
    use crate::check::report::Verdict;

    fn verdicts(outcome: &Outcome, forwards: bool) -> Vec<Verdict> {
        let tried = Feature::ALL.map(|feature| (feature, outcome.clone())).to_vec();
        features(&Ok(tried), forwards).iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn missing_feature_is_a_warning_or_failure() {
        assert!(verdicts(&Outcome::Works, true).iter().all(|verdict| *verdict == Verdict::Ok));
        let missing = Outcome::Missing("Operation not supported".to_owned());
        assert!(verdicts(&missing, true).iter().all(|verdict| *verdict == Verdict::Warning));
        assert_eq!(verdicts(&missing, false).iter().filter(|verdict| **verdict == Verdict::Fail).count(), 7);
        let tried = Feature::ALL.map(|feature| (feature, missing.clone())).to_vec();
        for finding in features(&Ok(tried), true) {
            assert!(finding.evidence.contains("Operation not supported"), "{finding:?}");
            assert!(finding.fix.is_some());
        }
    }

    #[test]
    fn untried_feature_is_unknown_with_what_it_needs() {
        for outcome in [Outcome::Forbidden("x".to_owned()), Outcome::Unclear("x".to_owned())] {
            assert!(verdicts(&outcome, false).iter().all(|verdict| *verdict == Verdict::Unknown));
        }
        let denied = Err("Operation not permitted".to_owned());
        for finding in [features(&denied, true), features(&Ok(Vec::new()), true)].concat() {
            assert_eq!(finding.verdict, Verdict::Unknown);
            assert!(finding.fix.is_some());
        }
    }

    #[test]
    fn missing_capability_has_its_verdict() {
        let of = |set| capabilities(set).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(of(Some(u64::MAX)), [Verdict::Ok; 4]);
        assert_eq!(of(Some(0)), [Verdict::Fail, Verdict::Warning, Verdict::Warning, Verdict::Info]);
        assert_eq!(of(Some(1 << 12)), [Verdict::Ok, Verdict::Warning, Verdict::Warning, Verdict::Info]);
        assert_eq!(of(None), [Verdict::Unknown; 4]);
    }
}

mod settings {
    use super::super::*;
    use crate::check::report::Verdict;

    const ALL: Concerns = Concerns { ipv4: true, ipv6: true, loopback: true };

    fn good() -> KernelSettings {
        KernelSettings {
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

    fn of(observed: &KernelSettings, id: &str) -> Verdict {
        let all = settings(observed, ALL);
        all.iter().find(|finding| finding.id == id).unwrap().verdict
    }

    #[test]
    fn healthy_node_is_ok() {
        assert!(settings(&good(), ALL).iter().all(|finding| finding.verdict == Verdict::Ok));
    }

    #[test]
    fn missing_observations_are_unknown() {
        for finding in settings(&KernelSettings::default(), ALL) {
            assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        }
    }

    #[test]
    fn each_bad_setting_has_its_verdict() {
        let here = || "eth0".to_owned();
        assert_eq!(of(&KernelSettings { ip_forward: Some(0), ..good() }, "ip-forward"), Verdict::Warning);
        assert_eq!(
            of(&KernelSettings { ipv6_forwarding: Some(0), ..good() }, "ipv6-forwarding"),
            Verdict::Warning
        );
        let strict = KernelSettings { rp_filter: Some((1, here())), ..good() };
        assert_eq!(of(&strict, "rp-filter"), Verdict::Info);
        assert_eq!(of(&KernelSettings { routing_rules: Some(2), ..strict }, "rp-filter"), Verdict::Warning);
        assert_eq!(
            of(&KernelSettings { tcp_loose: Some(0), ..good() }, "conntrack-tcp-loose"),
            Verdict::Info
        );
        let local = KernelSettings { route_localnet: Some(vec![here()]), ..good() };
        assert_eq!(of(&local, "route-localnet"), Verdict::Warning);
        let fix = settings(&local, ALL)[4].fix.clone().unwrap();
        assert!(
            fix.starts_with(
                "sysctl -w net/ipv4/conf/all/route_localnet=0 net/ipv4/conf/eth0/route_localnet=0 |"
            ),
            "{fix}"
        );
        let guarded = settings(&local, Concerns { loopback: false, ..ALL });
        assert_eq!(guarded[4].verdict, Verdict::Info);
        let bridged =
            KernelSettings { bridges: Some(vec!["cni0".to_owned()]), bridge_netfilter: Some(0), ..good() };
        assert_eq!(of(&bridged, "bridge-netfilter"), Verdict::Info);
        let same = KernelSettings { bridges_to_apiservers: vec!["cni0".to_owned()], ..bridged.clone() };
        assert_eq!(of(&same, "bridge-netfilter"), Verdict::Warning);
        assert_eq!(
            of(&KernelSettings { bridge_netfilter: Some(1), ..same }, "bridge-netfilter"),
            Verdict::Ok
        );
        assert_eq!(
            of(&KernelSettings { bridge_netfilter: Some(1), ..bridged }, "bridge-netfilter"),
            Verdict::Ok
        );
        let unserved =
            settings(&KernelSettings { ip_forward: Some(0), ..good() }, Concerns { ipv4: false, ..ALL });
        assert_eq!(unserved[0].verdict, Verdict::Ok);
    }

    proptest::proptest! {
        #[test]
        fn fuller_conntrack_table_is_never_better(count in 0..1_000_000i64, more in 0..1_000i64, max in 0..1_000_000i64) {
            let less = conntrack(Some((count, max))).verdict;
            proptest::prop_assert!(less <= conntrack(Some((count + more, max))).verdict);
        }
    }

    #[test]
    fn conntrack_table_verdict_depends_on_fill() {
        let verdict = |count| conntrack(Some((count, 100))).verdict;
        assert_eq!([74, 75, 94, 95, 100].map(verdict), {
            use Verdict::{Fail, Ok, Warning};
            [Ok, Warning, Warning, Fail, Fail]
        });
    }
}
