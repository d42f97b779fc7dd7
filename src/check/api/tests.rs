use std::sync::Arc;

use super::*;
use crate::check::report::Verdict;
use crate::kube::resource::Resource;
use crate::kube::review::{Permission, ReviewError};
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use crate::transport::readyz::ReadyzResponse;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn one() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 11], 6443))
}

fn lasting(from: i64, to: i64) -> Validity {
    Validity { begin: Some(NOW + from * DAY), end: NOW + to * DAY }
}

fn ready(status: u16, clock_ahead: Option<i64>) -> Inspection {
    Inspection {
        address: one(),
        connected: Ok(Duration::from_micros(310)),
        secured: Some(Ok(Some(lasting(-10, 355)))),
        answered: Some(Ok(ReadyzResponse { status, clock_ahead })),
    }
}

fn snapshot(service: ServiceStatus, backends: &[SocketAddr]) -> Arc<Snapshot> {
    let frontend = Frontend {
        vip: SocketAddr::from(([10, 96, 0, 1], 443)),
        port_name: "https".to_owned(),
        affinity: Affinity::None,
        backends: backends.to_vec(),
    };
    let rejected = std::collections::BTreeSet::new();
    Arc::new(Snapshot { generation: 1, service, frontends: vec![frontend], rejected })
}

fn allowed(answer: &Result<bool, ReviewError>) -> Vec<Permission> {
    let all = [Resource::Service, Resource::EndpointSlices];
    let of = |resource| ["list", "watch"].map(|verb| Permission { resource, verb, allowed: answer.clone() });
    all.into_iter().flat_map(of).collect()
}

fn good() -> ApiState {
    let snapshot = Ok(snapshot(ServiceStatus::Found, &[one()]));
    ApiState {
        access: Some(Ok(("user \"apivip\"".to_owned(), Vec::new()))),
        validities: vec![
            ("ca", lasting(-100, 3000)),
            ("client_certificate", lasting(-100, 265)),
            ("token", Validity { begin: None, end: NOW + 3000 }),
        ],
        unresolved: Vec::new(),
        examined: vec![ready(200, Some(0))],
        name: "kubernetes.default.svc".to_owned(),
        audience: Some(Ok((one(), AccessReview { permissions: allowed(&Ok(true)), snapshot }))),
        service: ServiceKey::default(),
        kubeconfig: None,
        now: NOW,
    }
}

fn of(observed: &ApiState, id: &str) -> Verdict {
    let all = findings(observed);
    let found: Vec<&Finding> = all.iter().filter(|finding| finding.id == id).collect();
    found.iter().map(|finding| finding.verdict).max().unwrap_or_else(|| panic!("no {id} in {all:#?}"))
}

fn with_examined(examined: Inspection) -> ApiState {
    ApiState { examined: vec![examined], ..good() }
}

#[test]
fn healthy_cluster_is_ok() {
    for finding in findings(&good()) {
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }
}

#[test]
fn without_access_everything_is_unknown() {
    let all = findings(&ApiState::default());
    for finding in &all {
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
    }
    assert!(all.len() >= 5, "{all:#?}");
}

#[test]
fn invalid_or_expired_credentials_fail() {
    let observed = ApiState { access: Some(Err("read the kubeconfig x: no such file".to_owned())), ..good() };
    assert_eq!(of(&observed, "api-access"), Verdict::Fail);
    let fix = |warning| {
        let observed = ApiState { access: Some(Ok(("x".to_owned(), vec![warning]))), ..good() };
        let finding = findings(&observed).into_iter().find(|finding| finding.id == "api-access").unwrap();
        assert_eq!(finding.verdict, Verdict::Warning);
        finding.fix.unwrap()
    };
    let clock = fix(Warning::Date("the CA is not valid before tomorrow".to_owned()));
    assert!(clock.starts_with("timedatectl"), "{clock}");
    let ignored = fix(Warning::Ignored("proxy-url is ignored".to_owned()));
    assert!(ignored.starts_with("kubectl") && !ignored.contains("timedatectl"), "{ignored}");
    for (name, id) in
        [("ca", "ca-expiry"), ("client_certificate", "client-certificate-expiry"), ("token", "token-expiry")]
    {
        let with =
            |validity| ApiState { validities: vec![("ca", lasting(-1, 9)), (name, validity)], ..good() };
        let with = |validity| ApiState {
            validities: with(validity).validities.into_iter().rev().collect(),
            ..good()
        };
        assert_eq!(of(&with(lasting(-365, -1)), id), Verdict::Fail);
        assert_eq!(of(&with(lasting(1, 9)), id), Verdict::Fail);
        assert_eq!(of(&with(lasting(-355, 10)), id), Verdict::Warning);
        assert_eq!(of(&with(lasting(-1, 1)), id), Verdict::Ok);
    }
    let soon = vec![("token", Validity { begin: None, end: NOW + 60 })];
    assert_eq!(of(&ApiState { validities: soon, ..good() }, "token-expiry"), Verdict::Warning);
    let unresolved = vec![("api.example.com".to_owned(), "it has no address".to_owned())];
    assert_eq!(of(&ApiState { unresolved, ..good() }, "apiserver-name"), Verdict::Fail);
}

#[test]
fn each_failed_step_of_an_apiserver_has_its_verdict() {
    let refused = Inspection {
        connected: Err("connection refused".to_owned()),
        secured: None,
        answered: None,
        ..ready(200, None)
    };
    assert_eq!(of(&with_examined(refused.clone()), "apiserver-tcp"), Verdict::Fail);
    assert_eq!(of(&with_examined(refused), "apiservers"), Verdict::Fail);
    let foreign =
        Inspection { secured: Some(Err("another CA".to_owned())), answered: None, ..ready(200, None) };
    assert_eq!(of(&with_examined(foreign), "apiserver-tls"), Verdict::Fail);
    let untrusted = Inspection { secured: None, answered: None, ..ready(200, None) };
    assert_eq!(of(&with_examined(untrusted), "apiserver-tls"), Verdict::Unknown);
    let old = Inspection { secured: Some(Ok(Some(lasting(-360, 5)))), ..ready(200, None) };
    assert_eq!(of(&with_examined(old), "apiserver-certificate-expiry"), Verdict::Warning);
    let silent = Inspection { answered: Some(Err("no answer within 2.5 s".to_owned())), ..ready(200, None) };
    assert_eq!(of(&with_examined(silent), "apiserver-readyz"), Verdict::Fail);
    let verdict = |status| of(&with_examined(ready(status, None)), "apiserver-readyz");
    assert_eq!([200, 401, 403].map(verdict), [Verdict::Ok; 3]);
    assert_eq!([500, 503, 302].map(verdict), [Verdict::Warning, Verdict::Warning, Verdict::Fail]);
}

#[test]
fn clock_with_largest_skew_decides() {
    for (skew, expected) in [
        (5, Verdict::Ok),
        (-5, Verdict::Ok),
        (6, Verdict::Warning),
        (-60, Verdict::Warning),
        (61, Verdict::Fail),
        (-86_400, Verdict::Fail),
    ] {
        let observed = ApiState { examined: vec![ready(200, Some(1)), ready(200, Some(skew))], ..good() };
        assert_eq!(of(&observed, "clock"), expected, "{skew}");
    }
}

#[test]
fn missing_permission_is_named() {
    let mut observed = good();
    let Some(Ok((_, audience))) = &mut observed.audience else { panic!() };
    audience.permissions[3].allowed = Ok(false);
    let all = findings(&observed);
    let denied: Vec<_> = all.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    assert_eq!(denied.len(), 1, "{denied:#?}");
    assert_eq!(denied[0].subject.as_deref(), Some("watch endpointslices.discovery.k8s.io"));
}

#[test]
fn failed_review_is_unknown_and_refused_credentials_fail() {
    let with = |answer: ReviewError| {
        let snapshot = Ok(snapshot(ServiceStatus::Found, &[one()]));
        let audience = AccessReview { permissions: allowed(&Err(answer)), snapshot };
        of(&ApiState { audience: Some(Ok((one(), audience))), ..good() }, "permission")
    };
    assert_eq!(with(ReviewError::Unauthorized("the token".to_owned())), Verdict::Fail);
    assert_eq!(with(ReviewError::Unanswered("broke".to_owned())), Verdict::Unknown);
}

#[test]
fn published_endpoints_have_their_verdicts() {
    let with = |snapshot| {
        let audience = AccessReview { permissions: Vec::new(), snapshot };
        of(&ApiState { audience: Some(Ok((one(), audience))), ..good() }, "api-read")
    };
    assert_eq!(with(Err("not allowed (403)".to_owned())), Verdict::Fail);
    for service in [ServiceStatus::Missing, ServiceStatus::Headless, ServiceStatus::Unusable] {
        assert_eq!(with(Ok(snapshot(service, &[]))), Verdict::Fail);
    }
    assert_eq!(with(Ok(snapshot(ServiceStatus::Found, &[]))), Verdict::Warning);
    assert_eq!(
        of(&ApiState { audience: Some(Err("no key".to_owned())), ..good() }, "api-read"),
        Verdict::Fail
    );
}
