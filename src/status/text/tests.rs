use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::kube::{Connection, ConnectionState};
use crate::model::balance::Balance;
use crate::model::desired::{Masquerade, NodeView, Policy, compute_desired_state};
use crate::model::health::sample as health;
use crate::model::health::{BackendHealth, FailReason, HealthState, HealthView};
use crate::model::report::{Phase, Report, TrafficPath, TrafficPathReport};
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use crate::model::sources::Origins;
use crate::model::traffic::{ByteCounts, Traffic};
use crate::model::types::Backend;
use crate::proxy::Stats;
use crate::status::Parts;
use crate::transport::Expiry;

fn backend(last: u8) -> Backend {
    ([192, 0, 2, last], 6443).into()
}

/// Three apiservers in these states.
fn status(states: [HealthState; 3], connection: &Connection) -> Status {
    let policy = Policy {
        service: "default/kubernetes".parse().unwrap(),
        masquerade: Masquerade::Auto,
        cluster_cidrs: Vec::new(),
        balance: Balance::Random,
    };
    let frontend = Frontend {
        vip: "10.96.0.1:443".parse().unwrap(),
        port_name: "https".to_owned(),
        affinity: Affinity::None,
        backends: (11..=13).map(backend).collect(),
    };
    let rejected = Default::default();
    let snapshot =
        Snapshot { generation: 1, service: ServiceStatus::Found, frontends: vec![frontend], rejected };
    let mut view = HealthView::unprobed(Arc::new(snapshot), Instant::now());
    for (last, state) in (11..).zip(states) {
        let failure = (state == HealthState::Suspect).then_some(FailReason::Refused);
        view.backends.insert(backend(last), BackendHealth { failure, ..health(state) });
    }
    let programmed = compute_desired_state(&view, None, &NodeView::default(), &policy).0;
    let reason = Some(Arc::from("--mode auto: the kernel accepts the rules"));
    let (in_use, since) = (TrafficPath::Nftables, Instant::now());
    let path = TrafficPathReport { in_use, since, reason, fallback_active: false, draining: false };
    let report = Report {
        phase: Phase::Programmed,
        view: Some(view),
        programmed: Some(Arc::new(programmed)),
        path: Some(path),
        ..Report::default()
    };
    let totals = BTreeMap::from([(backend(11), 1_204), (backend(12), 7)]);
    let vip = "10.96.0.1:443".parse().unwrap();
    let mut traffic = Traffic::new(true);
    traffic.add(vip, backend(11), Some(ByteCounts { up: 1_023, down: 5 << 20 | 1 << 19 }));
    traffic.add(vip, backend(12), None);
    let forwarder = Stats::default();
    drop(forwarder.count_forwarded(backend(12)));
    let _open = [12, 13].map(|last| forwarder.count_forwarded(backend(last)));
    Status::new(&Parts {
        service: &policy.service,
        started: Instant::now(),
        report: &report,
        connection,
        origins: &Origins::default(),
        totals: &totals,
        traffic: Some(&traffic),
        forwarder: &forwarder,
        selftests: &Default::default(),
    })
}

fn synced() -> Connection {
    Connection { state: ConnectionState::Synced, address: Some(backend(11)), ..Connection::default() }
}

fn line<'a>(text: &'a str, with: &str) -> &'a str {
    text.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with:?} is not in\n{text}"))
}

#[test]
fn healthy_node_has_no_problems_and_columns_align() {
    let status = status([HealthState::Healthy; 3], &synced());
    assert_eq!(status.problems, []);
    let text = text(&status, Form::default());
    assert!(line(&text, "apivip ").ends_with(": healthy"), "{text}");
    assert!(status.sentence().starts_with("healthy, programmed: "), "{}", status.sentence());
    let (head, row) = (line(&text, "BACKEND"), line(&text, "192.0.2.11:6443   "));
    for (title, value) in
        [("STATE", "healthy"), ("SHARE", "33%"), ("CONNECTIONS", "1204"), ("SOURCE", "published")]
    {
        assert_eq!(head.find(title), row.find(value), "{text}");
    }
    assert!(head.contains("AGE"), "{text}");
    assert!(!text.contains('\x1b') && text.lines().all(|line| line.trim_end() == line), "{text:?}");
}

#[test]
fn slow_credential_plugin_is_a_problem() {
    let waiting = |seconds| {
        let since = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a machine that is up");
        let connection =
            Connection { plugin: Some(("/opt/get-token".to_owned(), since)), ..Connection::default() };
        let status = status([HealthState::Healthy; 3], &connection);
        let text = text(&status, Form::default());
        let todo = status.problems.iter().find(|problem| problem.message.starts_with("Cannot read the API"));
        (text, todo.cloned().expect("a problem"))
    };
    let (text, problem) = waiting(45);
    assert!(text.contains("the credential plugin /opt/get-token has not answered for 45s"), "{text}");
    assert!(problem.message.ends_with("/opt/get-token has not answered for 45s"), "{problem:?}");
    assert!(problem.action.starts_with("Run the plugin by hand"), "{problem:?}");
    let (text, problem) = waiting(0);
    assert!(!text.contains("get-token") && problem.message.contains("no API server has answered"), "{text}");
}

#[test]
fn problems_have_an_action() {
    let expired = Expiry { client_certificate: Some(1_700_000_000), ..Expiry::default() };
    let connection = Connection {
        state: ConnectionState::Degraded,
        last_error: Some("connection refused".to_owned()),
        expiry: expired,
        ..synced()
    };
    let status = status([HealthState::Healthy, HealthState::Suspect, HealthState::Draining], &connection);
    let short = super::text(&status, Form::default());
    assert!(line(&short, "expiry").contains("client certificate expired"), "{short}");
    assert!(short.lines().filter(|line| line.starts_with("  ")).all(|line| line.len() <= 120), "{short}");
    let text = text(&status, Form { wide: true, colour: true });
    for words in [
        "192.0.2.12:6443 has not answered for",
        "refused",
        "192.0.2.13:6443 has been alive but not ready",
        "Cannot read the API: connection refused",
        "The client certificate expired",
    ] {
        assert!(status.problems.iter().any(|problem| problem.message.contains(words)), "{words}: {text}");
    }
    assert!(status.problems.iter().all(|problem| !problem.action.is_empty()));
    assert!(text.contains("\x1b[31msuspect\x1b[0m") && line(&text, "BACKEND").contains("SOURCE"), "{text}");
}

#[test]
fn verdict_is_in_the_first_line_and_critical_problems_have_their_own_label() {
    let head = |states| {
        let text = text(&status(states, &synced()), Form { wide: false, colour: true });
        (line(&text, "apivip ").to_owned(), text.contains("\x1b[31mcritical "))
    };
    let (degraded, critical) = head([HealthState::Healthy, HealthState::Healthy, HealthState::Suspect]);
    assert!(degraded.ends_with(": \x1b[33mdegraded\x1b[0m") && !critical, "{degraded:?}");
    let (failing, critical) = head([HealthState::Suspect; 3]);
    assert!(failing.ends_with(": \x1b[31mfailing\x1b[0m") && critical, "{failing:?}");
}

#[test]
fn wide_text_has_open_connections_and_bytes() {
    let text = text(&status([HealthState::Healthy; 3], &synced()), Form { wide: true, colour: false });
    let head = line(&text, "BACKEND");
    for (backend, open, up, down) in [
        ("192.0.2.11:6443", "1", "1023B", "5.5MiB"),
        ("192.0.2.12:6443", "1", "-", "-"),
        ("192.0.2.13:6443", "0", "0B", "0B"),
    ] {
        let row = text.lines().find(|line| line.trim_start().starts_with(backend)).unwrap();
        for (title, value) in [("OPEN", open), ("UP", up), ("DOWN", down)] {
            let cell = &row[head.find(title).unwrap()..];
            assert_eq!(cell.split_whitespace().next(), Some(value), "{title} of {backend}\n{text}");
        }
    }
}

#[test]
fn connections_of_rules_and_forwarder_are_shown_together_and_in_wide_text_apart() {
    let status = status([HealthState::Healthy; 3], &synced());
    let counts = status.frontends[0].backends.iter().map(|b| (b.forwarded_connections, b.forwarded_open));
    assert_eq!(counts.collect::<Vec<_>>(), [(0, 0), (2, 1), (1, 1)]);
    let (short, wide) = (text(&status, Form::default()), text(&status, Form { wide: true, colour: false }));
    assert!(!line(&short, "BACKEND").contains("FORWARDED"), "{short}");
    for (backend, together, forwarded, open) in [
        ("192.0.2.11:6443", "1204", "0", "0"),
        ("192.0.2.12:6443", "9", "2", "1"),
        ("192.0.2.13:6443", "1", "1", "1"),
    ] {
        let cells = [(&short, "CONNECTIONS", together), (&wide, "CONNECTIONS", together)];
        let apart = [(&wide, " FORWARDED ", forwarded), (&wide, " FORWARDED-OPEN", open)];
        for (text, title, value) in cells.into_iter().chain(apart) {
            let row = text.lines().find(|line| line.trim_start().starts_with(backend)).unwrap();
            let cell = &row[line(text, "BACKEND").find(title).unwrap()..];
            assert_eq!(cell.split_whitespace().next(), Some(value), "{title} of {backend}\n{text}");
        }
    }
}

#[test]
fn backend_that_does_not_answer_has_no_round_trip() {
    let status = status([HealthState::Healthy, HealthState::Suspect, HealthState::Failed], &synced());
    let round_trips = status.frontends[0].backends.iter().map(|backend| backend.round_trip_us);
    assert_eq!(round_trips.collect::<Vec<_>>(), [Some(1_000), None, None]);
}

#[test]
fn sizes_have_a_unit() {
    let sizes = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 1 << 50, u64::MAX].map(size);
    assert_eq!(sizes, ["0B", "1023B", "1.0KiB", "1.5KiB", "1023.9KiB", "1.0MiB", "1.0PiB", "16383.9PiB"]);
}

#[test]
fn document_survives_a_round_trip() {
    let status = status([HealthState::Healthy, HealthState::Unknown, HealthState::Suspect], &synced());
    let json = serde_json::to_string(&status).unwrap();
    let again: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
    let yaml = serde_saphyr::to_string(&status).unwrap();
    let again: Status = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
}

#[test]
fn refused_credentials_are_a_problem() {
    let connection = Connection { state: ConnectionState::Synced, ..Connection::default() };
    let mut status = status([HealthState::Healthy; 3], &connection);
    let answers = [("refused", true), ("refused", false), ("authenticated", true)];
    for (backend, (authentication, known)) in status.frontends[0].backends.iter_mut().zip(answers) {
        (backend.authentication, backend.readiness_known) = (Some(authentication.to_owned()), Some(known));
    }
    let problems: Vec<String> =
        crate::status::problems::of(&status, &[]).into_iter().map(|problem| problem.message).collect();
    let refused = "API servers reject the credentials of apivip (401) and are probed without them: 192.0.2.11:6443, 192.0.2.12:6443";
    assert!(problems.iter().any(|message| message == refused), "{problems:?}");
    let unknown = "Readiness is unknown and assumed: 192.0.2.12:6443";
    assert!(problems.iter().any(|message| message == unknown), "{problems:?}");
    assert_eq!(
        note(&status.frontends[0].backends[1]),
        "rejects the credentials of apivip, readiness unknown"
    );
    status.frontends[0].backends[2].authentication = Some("anonymous".to_owned());
    assert_eq!(note(&status.frontends[0].backends[2]), "probed without credentials");
}
