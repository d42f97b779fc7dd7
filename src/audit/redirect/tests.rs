use serde_json::json;

use super::super::finding::Verdict::{self, Fail, Pass, Unknown};
use super::*;
use crate::check::finding::{Check as Asked, Group};

const fn asked(id: &'static str) -> Asked {
    Asked { id, group: Group::Neighbours, title: "asked" }
}

fn good() -> Redirect {
    let test =
        json!({"vip": "10.96.0.1:443", "ready": true, "answered_by": "rules", "explanation": "its rules"});
    Redirect {
        vips: BTreeSet::from(["10.96.0.1:443".parse().unwrap()]),
        status: Some(json!({"pid": 7, "selftests": [test]})),
        doctor: ["nat-order", "socket-translation", "vip-bound"].map(|id| asked(id).ok("ok")).to_vec(),
        guarded: false,
        rp_filter: Some(vec![("eth0".to_owned(), 2)]),
        settings: Settings { route_localnet: Some(Vec::new()), ..Settings::default() },
        nonlocal: vec![("net.ipv4.ip_nonlocal_bind", Some(false))],
        listeners: Some(Ok(Vec::new())),
        services: Some(Ok(vec![claiming(&["192.0.2.80"])])),
    }
}

fn claiming(claims: &[&str]) -> Served {
    Served {
        name: "a/b".to_owned(),
        https: true,
        claims: claims.iter().map(|&claim| claim.to_owned()).collect(),
    }
}

fn of(seen: &Redirect, id: &str) -> Verdict {
    findings(seen).iter().find(|finding| finding.id == id).unwrap().verdict
}

#[test]
fn a_node_as_it_should_be() {
    for finding in findings(&good()) {
        assert_eq!(finding.verdict, Pass, "{finding:?}");
    }
}

#[test]
fn nothing_is_guessed() {
    for finding in findings(&Redirect::default()) {
        assert_eq!(finding.verdict, Unknown, "{finding:?}");
    }
    let no = || Some(Err("forbidden".to_owned()));
    let refused = Redirect { listeners: no(), services: Some(Err("forbidden".to_owned())), ..good() };
    assert_eq!((of(&refused, "redirect-listeners"), of(&refused, "redirect-claims")), (Unknown, Unknown));
    let silent = Redirect { status: Some(json!({"selftests": []})), ..good() };
    assert_eq!(of(&silent, "redirect-answer"), Unknown);
}

#[test]
fn whoever_takes_the_virtual_ip_is_noticed() {
    let by = |who: &str, ready: bool| {
        let test = json!({"vip": "10.96.0.1:443", "ready": ready, "answered_by": who, "explanation": "x"});
        of(&Redirect { status: Some(json!({"selftests": [test]})), ..good() }, "redirect-answer")
    };
    assert_eq!((by("forwarder", true), by("rules", false), by("unknown", false)), (Pass, Unknown, Unknown));
    assert_eq!(by("neighbour-reject", false), Unknown, "nobody else takes it");
    for other in ["neighbour-dnat", "local-listener", "below-netfilter", "network"] {
        assert_eq!(by(other, true), Fail, "{other}");
    }
    for (id, check) in [("nat-order", "redirect-tables"), ("socket-translation", "redirect-sockets")] {
        let doctor = vec![asked(id).warning("taken", "nft list ruleset")];
        assert_eq!(of(&Redirect { doctor, ..good() }, check), Fail);
    }
    let listens = |pid| {
        let listener = Listener { address: "10.96.0.1:443".parse().unwrap(), pid, inner: Some(7) };
        of(&Redirect { listeners: Some(Ok(vec![listener])), ..good() }, "redirect-listeners")
    };
    assert_eq!((listens(Some(7)), listens(Some(8)), listens(None)), (Pass, Fail, Fail));
    let listener = Listener { address: "10.96.0.1:443".parse().unwrap(), pid: Some(900), inner: Some(7) };
    let forwarding = json!({"pid": 7, "dataplane": {"in_use": "forwarder"}, "selftests": []});
    let seen = Redirect { listeners: Some(Ok(vec![listener])), status: Some(forwarding), ..good() };
    assert_eq!(of(&seen, "redirect-listeners"), Unknown, "a daemon in a Pod, or somebody else");
    let routed = vec![asked("vip-bound").warning("a local route takes it", "ip route")];
    assert_eq!(of(&Redirect { doctor: routed, ..good() }, "redirect-listeners"), Fail);
    let claimed = Some(Ok(vec![claiming(&["10.96.0.1"])]));
    assert_eq!(of(&Redirect { services: claimed, ..good() }, "redirect-claims"), Fail);
}

#[test]
fn each_setting_is_noticed() {
    let open =
        Redirect { nonlocal: vec![("x", Some(false)), ("net.ipv6.ip_nonlocal_bind", Some(true))], ..good() };
    assert_eq!(of(&open, "redirect-nonlocal-bind"), Fail);
    let with = |settings: Settings| Redirect { settings, ..good() };
    let one = vec![("eth0".to_owned(), 1), ("eth1".to_owned(), 0)];
    assert_eq!(of(&Redirect { rp_filter: Some(one), ..good() }, "redirect-rp-filter"), Fail);
    let local = with(Settings { route_localnet: Some(vec!["eth0".to_owned()]), ..good().settings });
    assert_eq!(of(&local, "redirect-route-localnet"), Fail);
    assert_eq!(of(&Redirect { guarded: true, ..local }, "redirect-route-localnet"), Pass);
}
