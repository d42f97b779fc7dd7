use super::*;
use crate::audit::flags::Egress;
use crate::check::report::Verdict::{self, Fail, Pass, Unknown};

const GOOD: &str =
    "--authorization-mode=Node,RBAC --kubelet-certificate-authority=/ca --egress-selector-config-file=/e";

fn apiservers(line: &str) -> Vec<ApiserverFlags> {
    let words: Vec<&str> = line.split(' ').collect();
    let egress = Ok(Egress::Tunnel("GRPC".to_owned()));
    vec![ApiserverFlags { egress, ..ApiserverFlags::new("manifest".to_owned(), Flags::read(&words)) }]
}

fn review(allowed: bool, reason: &str) -> ReviewResult {
    Ok(AccessReview { allowed, reason: reason.to_owned() })
}

fn served(name: &str, https: bool) -> ServiceSummary {
    ServiceSummary { name: name.to_owned(), https, claims: Vec::new() }
}

fn good() -> ControlPlane {
    let each = ["nodes", "pods", "services"].into_iter();
    let each = each.flat_map(|what| Subject::ALL.map(|whom| (what, whom, review(false, ""))));
    ControlPlane {
        apiservers: apiservers(GOOD),
        kubeadm: None,
        all_flags: true,
        nonexistent: Some(review(false, "")),
        everybody: Some(review(false, "")),
        proxies: each.collect(),
        services: Some(Ok(vec![served("default/kubernetes", true)])),
        agents: Some(Ok(vec!["Pod kube-system/konnectivity-agent-x".to_owned()])),
    }
}

fn of(seen: &ControlPlane, id: &str) -> Verdict {
    let all = findings(seen);
    let found = all.iter().filter(|finding| finding.id == id).map(|finding| finding.verdict);
    found.max().unwrap()
}

#[test]
fn hardened_control_plane_passes() {
    for finding in findings(&good()) {
        assert_eq!(finding.verdict, Pass, "{finding:?}");
    }
}

#[test]
fn missing_observations_are_unknown() {
    for finding in findings(&ControlPlane::default()) {
        assert_eq!(finding.verdict, Unknown, "{finding:?}");
    }
    let no = || Err("forbidden".to_owned());
    let refused = ControlPlane {
        apiservers: Vec::new(),
        nonexistent: Some(no()),
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
fn authorization_mode_is_known_from_flags_or_reviews() {
    let with = |line: &str| ControlPlane { apiservers: apiservers(line), ..good() };
    assert_eq!(of(&with("--authorization-mode=AlwaysAllow,RBAC"), "authorization-mode"), Fail);
    assert_eq!(of(&with("--secure-port=1"), "authorization-mode"), Fail);
    assert_eq!(of(&with("--authorization-config=/x"), "authorization-mode"), Pass);
    let by = |reason: &str, everybody| ControlPlane {
        apiservers: Vec::new(),
        nonexistent: Some(review(true, reason)),
        everybody,
        ..good()
    };
    assert_eq!(of(&by("RBAC: allowed by ClusterRoleBinding \"x\"", None), "authorization-mode"), Pass);
    assert_eq!(of(&by("", Some(review(true, ""))), "authorization-mode"), Fail);
    assert_eq!(of(&by("", Some(review(true, "RBAC: x"))), "authorization-mode"), Fail);
    assert_eq!(of(&by("", Some(review(false, ""))), "authorization-mode"), Pass);
    assert_eq!(of(&by("", None), "authorization-mode"), Unknown);
    assert_eq!(
        of(&ControlPlane { apiservers: apiservers(GOOD), ..by("", None) }, "authorization-mode"),
        Pass
    );
}

#[test]
fn flags_of_some_apiservers_prove_only_failures() {
    let some = ControlPlane { all_flags: false, ..good() };
    for id in ["kubelet-verified", "tunnel-ssh", "tunnel-konnectivity"] {
        assert_eq!(of(&some, id), Unknown, "{id}");
    }
    let bad = ControlPlane { apiservers: apiservers("--authorization-mode=RBAC --ssh-user=core"), ..some };
    assert_eq!((of(&bad, "kubelet-verified"), of(&bad, "tunnel-ssh")), (Fail, Fail));
}

#[test]
fn one_failing_apiserver_fails_the_check() {
    let mut both = apiservers(GOOD);
    both.extend(apiservers("--authorization-mode=RBAC --ssh-user=core"));
    let seen = ControlPlane { apiservers: both, ..good() };
    assert_eq!((of(&seen, "kubelet-verified"), of(&seen, "tunnel-ssh")), (Fail, Fail));
}

#[test]
fn subject_with_proxy_right_fails() {
    let may = |whom: Subject| ControlPlane {
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
        assert_eq!(failed[0].severity == Some(Severity::Low), whom == Subject::Caller);
    }
    assert_eq!(of(&may(Subject::Anonymous), "proxy-pods"), Pass);
}

#[test]
fn services_without_https_and_missing_tunnels_fail() {
    let services = Some(Ok(vec![served("a/x", true), served("a/y", false)]));
    let all = findings(&ControlPlane { services, ..good() });
    let found = all.iter().find(|finding| finding.id == "proxy-https-services").unwrap();
    assert_eq!(found.evidence, "1 of 2 Services have no HTTPS port: a/y; Services with an HTTPS port: a/x");
    let agentless = ControlPlane { agents: Some(Ok(Vec::new())), ..good() };
    assert_eq!(of(&agentless, "tunnel-konnectivity"), Fail);
    let plain = ControlPlane { apiservers: apiservers("--authorization-mode=RBAC"), ..good() };
    assert_eq!(of(&plain, "tunnel-konnectivity"), Fail);
    assert_eq!(of(&ControlPlane { apiservers: Vec::new(), ..good() }, "tunnel-konnectivity"), Unknown);
}

#[test]
fn tunnel_passes_only_with_its_configuration() {
    let with = |egress: Result<Egress, String>| {
        let all = apiservers(GOOD).into_iter().map(|one| ApiserverFlags { egress: egress.clone(), ..one });
        ControlPlane { apiservers: all.collect(), ..good() }
    };
    assert_eq!(of(&with(Ok(Egress::Direct("it has none"))), "tunnel-konnectivity"), Fail);
    assert_eq!(of(&with(Err("unreadable".to_owned())), "tunnel-konnectivity"), Unknown);
    let mut mirrored = with(Err("elsewhere".to_owned()));
    mirrored.add_local(apiservers(GOOD));
    assert_eq!((mirrored.apiservers.len(), of(&mirrored, "tunnel-konnectivity")), (1, Pass));
    let mut alike = with(Err("elsewhere".to_owned()));
    alike.apiservers.extend(alike.apiservers.clone());
    alike.add_local(apiservers(GOOD));
    assert_eq!(
        (alike.apiservers.len(), of(&alike, "tunnel-konnectivity")),
        (2, Unknown),
        "two mirrors are two"
    );
    let mut another = with(Err("elsewhere".to_owned()));
    another.add_local(apiservers(&format!("{GOOD} --advertise-address=192.0.2.12")));
    assert_eq!((another.apiservers.len(), of(&another, "tunnel-konnectivity")), (2, Unknown));
}

#[test]
fn kubeadm_configuration_counts_only_without_observed_apiservers() {
    let kubeadm = |line: &str| apiservers(line).pop();
    let bare = "--authorization-mode=Node,RBAC";
    let mut seen = ControlPlane { kubeadm: kubeadm(bare), ..good() };
    seen.add_local(Vec::new());
    assert_eq!(of(&seen, "kubelet-verified"), Pass, "what runs was seen");
    for (line, verdict) in [(bare, Fail), (GOOD, Pass)] {
        let mut unseen =
            ControlPlane { apiservers: Vec::new(), all_flags: false, kubeadm: kubeadm(line), ..good() };
        unseen.add_local(Vec::new());
        assert_eq!(of(&unseen, "kubelet-verified"), verdict);
    }
}
