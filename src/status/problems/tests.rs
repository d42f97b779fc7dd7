use super::*;
use crate::model::health::{FailReason, TerminationBlocker};
use crate::model::verdict::Verdict;
use crate::status::{RepairStatus, sample};

fn vip() -> Vip {
    "10.96.0.1:443".parse().unwrap()
}

fn backend(last: u8, state: &str) -> BackendStatus {
    BackendStatus {
        address: ([192, 0, 2, last], 6443).into(),
        state: state.to_owned(),
        since_seconds: Some(61),
        failure: matches!(state, "suspect" | "failed").then(|| "timeout".to_owned()),
        reset_withheld: None,
        hold_down_seconds: None,
        authentication: Some("authenticated".to_owned()),
        readiness_known: Some(true),
        source: Some(EndpointSource::Published),
        source_age_seconds: Some(61),
        published: true,
        used: true,
        share: 0.5,
        round_trip_us: None,
        connections: 0,
        forwarded_connections: 0,
        forwarded_open: 0,
        open: None,
        bytes_up: None,
        bytes_down: None,
    }
}

fn selftest() -> SelfTestStatus {
    SelfTestStatus {
        vip: vip(),
        ready: true,
        failure: None,
        consecutive_failures: 0,
        latency_us: Some(500),
        seconds_ago: 1,
        answered_seconds_ago: Some(1),
        answered_by: Some("rules".to_owned()),
        explanation: None,
        backend: None,
        pod_traffic: "passing".to_owned(),
        pod_connections_blocked: None,
    }
}

/// A node without problems.
fn healthy(states: &[&str]) -> Status {
    let mut status = sample();
    status.phase = "programmed".to_owned();
    status.api.state = "synced".to_owned();
    status.selftests = vec![selftest()];
    status.frontends = vec![FrontendStatus {
        vip: vip(),
        port_name: "https".to_owned(),
        client_affinity: false,
        local_route_allowed: true,
        backends: (11..).zip(states).map(|(last, state)| backend(last, state)).collect(),
    }];
    status
}

fn verdict(status: &Status, fail_open: &[FailOpenReason]) -> Verdict {
    Verdict::of(of(status, fail_open).into_iter().map(|problem| problem.severity))
}

type Change = fn(&mut Status);

/// The problems of a healthy node to which something happened.
fn after(change: Change) -> Vec<(Severity, String)> {
    let mut status = healthy(&["healthy", "healthy"]);
    change(&mut status);
    of(&status, &[]).into_iter().map(|problem| (problem.severity, problem.message)).collect()
}

#[test]
fn each_kind_of_problem_has_its_severity() {
    use Severity::{Critical, Warning};
    assert_eq!(after(|_| {}), []);
    let cases: [(&str, Change, Severity); 20] = [
        ("the kernel refuses the rules", |status| status.phase = "failed".to_owned(), Critical),
        ("a route could not be made", |status| status.phase = "unrouted".to_owned(), Warning),
        ("the API was not read", |status| status.phase = "starting".to_owned(), Warning),
        ("the API publishes nothing", |status| status.phase = "waiting".to_owned(), Warning),
        ("a self-test is not answered", |status| status.selftests[0].ready = false, Critical),
        (
            "another program takes the virtual IP",
            |status| status.selftests[0].answered_by = Some("other_program_dnat".to_owned()),
            Warning,
        ),
        ("Pods are blocked", |status| status.selftests[0].pod_connections_blocked = Some(4), Warning),
        (
            "the forwarder is the fallback",
            |status| {
                status.dataplane.fallback_active = true;
                status.dataplane.reason = Some("no nf_tables".to_owned());
            },
            Warning,
        ),
        ("the forwarder is full", |status| status.dataplane.accept_paused = true, Warning),
        ("the API is not read", |status| status.api.state = "degraded".to_owned(), Warning),
        (
            "a plugin hangs",
            |status| {
                status.api.state = "connecting".to_owned();
                status.api.pending_plugin = Some("/opt/token".to_owned());
                status.api.pending_plugin_seconds = Some(60);
            },
            Warning,
        ),
        ("one is suspect", |status| status.frontends[0].backends[0] = backend(11, "suspect"), Warning),
        ("one failed", |status| status.frontends[0].backends[0] = backend(11, "failed"), Warning),
        ("one is late", |status| status.frontends[0].backends[0] = backend(11, "late"), Warning),
        ("one drains", |status| status.frontends[0].backends[0] = backend(11, "draining"), Warning),
        ("one is held down", |status| status.frontends[0].backends[0].hold_down_seconds = Some(4), Warning),
        (
            "credentials are refused",
            |status| status.frontends[0].backends[0].authentication = Some("refused".to_owned()),
            Warning,
        ),
        ("the CA expired", |status| status.api.expiry.ca = Some(1_700_000_000), Warning),
        ("an address is rejected", |status| status.rejected = vec!["127.0.0.1".to_owned()], Warning),
        (
            "another program changed the table",
            |status| {
                status.repairs.latest = vec![RepairStatus {
                    object: "table".to_owned(),
                    timestamp: 0,
                    seconds_ago: 1,
                    found: "event".to_owned(),
                    changes: 1,
                    by: None,
                }];
            },
            Warning,
        ),
    ];
    for (name, change, severity) in cases {
        let problems = after(change);
        assert!(problems.len() == 1 && problems[0].0 == severity, "{name}: {problems:?}");
    }
}

#[test]
fn unusable_virtual_ip_is_failing_and_one_suspect_backend_is_degraded() {
    let states = |states: &[&str]| verdict(&healthy(states), &[]);
    assert_eq!(states(&["healthy", "healthy"]), Verdict::Healthy);
    assert_eq!(states(&["healthy", "suspect"]), Verdict::Degraded);
    assert_eq!(states(&["late", "failed"]), Verdict::Degraded);
    assert_eq!(states(&["unknown"]), Verdict::Healthy, "it was not probed yet");
    for unusable in [&["suspect"][..], &["failed", "suspect"], &["draining", "failed"]] {
        assert_eq!(states(unusable), Verdict::Failing, "{unusable:?}");
    }
    let mut failed = healthy(&["unknown"]);
    failed.frontends[0].backends[0].failure = Some("refused".to_owned());
    assert_eq!(verdict(&failed, &[]), Verdict::Failing);
}

#[test]
fn reason_that_names_an_unusable_virtual_ip_is_the_critical_problem() {
    let reason = FailOpenReason::NoneAnswers { vip: vip(), reason: Some(FailReason::Timeout) };
    let problems = of(&healthy(&["suspect", "failed"]), std::slice::from_ref(&reason));
    let critical: Vec<&str> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Critical)
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(critical, [capitalized(&reason.to_string())]);
    // A probe failed, and the state is not decided yet.
    assert_eq!(verdict(&healthy(&["healthy"]), &[reason]), Verdict::Degraded);
    assert_eq!(verdict(&healthy(&["healthy"]), &[FailOpenReason::ServiceMissing]), Verdict::Degraded);
}

#[test]
fn critical_problems_come_first() {
    let mut status = healthy(&["suspect"]);
    status.phase = "unrouted".to_owned();
    status.selftests[0].ready = false;
    status.frontends[0].backends[0].reset_withheld = Some(TerminationBlocker::NoWitness);
    let problems = of(&status, &[]);
    assert!(problems.is_sorted_by_key(|problem| problem.severity), "{problems:?}");
    assert!(problems[0].message.contains("10.96.0.1:443 answered"), "{problems:?}");
    let withheld = TerminationBlocker::NoWitness.to_string();
    assert!(problems.iter().any(|problem| problem.message.ends_with(&withheld)), "{problems:?}");
}
