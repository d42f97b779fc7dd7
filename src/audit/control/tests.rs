use super::super::finding::Verdict::{self, Fail, Pass, Unknown};
use super::super::started::Egress;
use super::*;

const GOOD: &str =
    "--authorization-mode=Node,RBAC --kubelet-certificate-authority=/ca --egress-selector-config-file=/e";

fn started(line: &str) -> Vec<Started> {
    let words: Vec<&str> = line.split(' ').collect();
    let egress = Ok(Egress::Tunnel("GRPC".to_owned()));
    vec![Started { egress, ..Started::new("manifest".to_owned(), Flags::read(&words)) }]
}

fn review(allowed: bool, reason: &str) -> Reviewed {
    Ok(Review { allowed, reason: reason.to_owned() })
}

fn served(name: &str, https: bool) -> Served {
    Served { name: name.to_owned(), https, claims: Vec::new() }
}

fn good() -> Control {
    let each = ["nodes", "pods", "services"].into_iter();
    let each = each.flat_map(|what| Subject::ALL.map(|whom| (what, whom, review(false, ""))));
    Control {
        started: started(GOOD),
        told: None,
        all_flags: true,
        nonsense: Some(review(false, "")),
        everybody: Some(review(false, "")),
        proxies: each.collect(),
        services: Some(Ok(vec![served("default/kubernetes", true)])),
        agents: Some(Ok(vec!["Pod kube-system/konnectivity-agent-x".to_owned()])),
    }
}

fn of(seen: &Control, id: &str) -> Verdict {
    let all = findings(seen);
    let found = all.iter().filter(|finding| finding.id == id).map(|finding| finding.verdict);
    found.max().unwrap()
}

#[test]
fn a_control_plane_as_it_should_be() {
    for finding in findings(&good()) {
        assert_eq!(finding.verdict, Pass, "{finding:?}");
    }
}

#[test]
fn nothing_is_guessed() {
    for finding in findings(&Control::default()) {
        assert_eq!(finding.verdict, Unknown, "{finding:?}");
    }
    let no = || Err("forbidden".to_owned());
    let refused = Control {
        started: Vec::new(),
        nonsense: Some(no()),
        everybody: Some(no()),
        proxies: good().proxies.into_iter().map(|(what, whom, _)| (what, whom, no())).collect(),
        services: Some(Err("forbidden".to_owned())),
        agents: Some(Err("forbidden".to_owned())),
        ..good()
    };
    for finding in findings(&refused) {
        assert_eq!(finding.verdict, Unknown, "{finding:?}");
    }
}

#[test]
fn authorization_is_known_by_flags_or_by_who_allows() {
    let with = |line: &str| Control { started: started(line), ..good() };
    assert_eq!(of(&with("--authorization-mode=AlwaysAllow,RBAC"), "authorization-mode"), Fail);
    assert_eq!(of(&with("--secure-port=1"), "authorization-mode"), Fail);
    assert_eq!(of(&with("--authorization-config=/x"), "authorization-mode"), Pass);
    let by = |reason: &str, everybody| Control {
        started: Vec::new(),
        nonsense: Some(review(true, reason)),
        everybody,
        ..good()
    };
    assert_eq!(of(&by("RBAC: allowed by ClusterRoleBinding \"x\"", None), "authorization-mode"), Pass);
    assert_eq!(of(&by("", Some(review(true, ""))), "authorization-mode"), Fail);
    assert_eq!(of(&by("", Some(review(true, "RBAC: x"))), "authorization-mode"), Fail);
    assert_eq!(of(&by("", Some(review(false, ""))), "authorization-mode"), Pass);
    assert_eq!(of(&by("", None), "authorization-mode"), Unknown);
    assert_eq!(of(&Control { started: started(GOOD), ..by("", None) }, "authorization-mode"), Pass);
}

#[test]
fn some_flags_prove_a_failure_and_no_pass() {
    let some = Control { all_flags: false, ..good() };
    for id in ["kubelet-verified", "tunnel-ssh", "tunnel-konnectivity"] {
        assert_eq!(of(&some, id), Unknown, "{id}");
    }
    let bad = Control { started: started("--authorization-mode=RBAC --ssh-user=core"), ..some };
    assert_eq!((of(&bad, "kubelet-verified"), of(&bad, "tunnel-ssh")), (Fail, Fail));
}

#[test]
fn one_apiserver_that_fails_is_a_failure() {
    let mut both = started(GOOD);
    both.extend(started("--authorization-mode=RBAC --ssh-user=core"));
    let seen = Control { started: both, ..good() };
    assert_eq!((of(&seen, "kubelet-verified"), of(&seen, "tunnel-ssh")), (Fail, Fail));
}

#[test]
fn whoever_may_use_the_proxy_is_named() {
    let may = |whom: Subject| Control {
        proxies: good()
            .proxies
            .into_iter()
            .map(|(what, who, _)| (what, who, review(what == "nodes" && who == whom, "RBAC: x")))
            .collect(),
        ..good()
    };
    for whom in Subject::ALL {
        let all = findings(&may(whom));
        let failed: Vec<_> = all.iter().filter(|finding| finding.verdict == Fail).collect();
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].id, failed[0].subject.as_deref()), ("proxy-nodes", Some(whom.label())));
        assert_eq!(failed[0].severity == Severity::Low, whom == Subject::Caller);
    }
    assert_eq!(of(&may(Subject::Anonymous), "proxy-pods"), Pass);
}

#[test]
fn services_without_https_and_missing_tunnels_are_named() {
    let services = Some(Ok(vec![served("a/x", true), served("a/y", false)]));
    let all = findings(&Control { services, ..good() });
    let found = all.iter().find(|finding| finding.id == "proxy-https-services").unwrap();
    assert_eq!(found.evidence, "1 of 2 Services have none: a/y; those that have one: a/x");
    let agentless = Control { agents: Some(Ok(Vec::new())), ..good() };
    assert_eq!(of(&agentless, "tunnel-konnectivity"), Fail);
    let plain = Control { started: started("--authorization-mode=RBAC"), ..good() };
    assert_eq!(of(&plain, "tunnel-konnectivity"), Fail);
    assert_eq!(of(&Control { started: Vec::new(), ..good() }, "tunnel-konnectivity"), Unknown);
}

#[test]
fn a_tunnel_is_one_only_if_the_file_says_so() {
    let with = |egress: Result<Egress, String>| {
        let all = started(GOOD).into_iter().map(|one| Started { egress: egress.clone(), ..one });
        Control { started: all.collect(), ..good() }
    };
    assert_eq!(of(&with(Ok(Egress::Direct("it has none"))), "tunnel-konnectivity"), Fail);
    assert_eq!(of(&with(Err("unreadable".to_owned())), "tunnel-konnectivity"), Unknown);
    let mut mirrored = with(Err("elsewhere".to_owned()));
    mirrored.add_local(started(GOOD));
    assert_eq!((mirrored.started.len(), of(&mirrored, "tunnel-konnectivity")), (1, Pass));
    let mut alike = with(Err("elsewhere".to_owned()));
    alike.started.extend(alike.started.clone());
    alike.add_local(started(GOOD));
    assert_eq!((alike.started.len(), of(&alike, "tunnel-konnectivity")), (2, Unknown), "two mirrors are two");
    let mut another = with(Err("elsewhere".to_owned()));
    another.add_local(started(&format!("{GOOD} --advertise-address=192.0.2.12")));
    assert_eq!((another.started.len(), of(&another, "tunnel-konnectivity")), (2, Unknown));
}

#[test]
fn what_a_tool_was_told_counts_where_nothing_is_seen() {
    let told = |line: &str| started(line).pop();
    let bare = "--authorization-mode=Node,RBAC";
    let mut seen = Control { told: told(bare), ..good() };
    seen.add_local(Vec::new());
    assert_eq!(of(&seen, "kubelet-verified"), Pass, "what runs was seen");
    for (line, verdict) in [(bare, Fail), (GOOD, Pass)] {
        let mut unseen = Control { started: Vec::new(), all_flags: false, told: told(line), ..good() };
        unseen.add_local(Vec::new());
        assert_eq!(of(&unseen, "kubelet-verified"), verdict);
    }
}
