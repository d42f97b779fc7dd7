use std::time::Instant;

use super::*;
use crate::kube::Connection;
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::sources::Origins;
use crate::model::verdict::Severity;
use crate::selftest::{Component, ForwardedTraffic, SelfTestResult};
use crate::status::{BackendStatus, Parts, Problem, RepairStatus, TransitionStatus};

const NONCE: &str = "bm9uY2U=";
const EVIL: &str = "\"><script>alert(1)</script>&'";

fn backend(last: u8, state: &str, used: bool) -> BackendStatus {
    BackendStatus {
        address: ([192, 0, 2, last], 6443).into(),
        state: state.to_owned(),
        since_seconds: Some(61),
        failure: (state == "failed").then(|| "timeout".to_owned()),
        reset_withheld: None,
        hold_down_seconds: None,
        authentication: Some("authenticated".to_owned()),
        readiness_known: Some(true),
        source: None,
        source_age_seconds: Some(5),
        published: true,
        used,
        share: if used { 0.5 } else { 0.0 },
        round_trip_us: Some(310),
        connections: 7,
        open: None,
        bytes_up: None,
        bytes_down: None,
    }
}

fn status() -> Status {
    let service = "default/kubernetes".parse().unwrap();
    let now = Instant::now();
    let latest = SelfTestResult {
        at: now,
        outcome: Ok(std::time::Duration::from_millis(2)),
        by: Some(Component::Rules),
        backend: Some(([192, 0, 2, 11], 6443).into()),
        failures: 0,
        answered: Some(now),
        pod_traffic: ForwardedTraffic::Passing,
    };
    let vip = "10.96.0.1:443".parse().unwrap();
    let mut status = Status::new(&Parts {
        service: &service,
        started: now,
        report: &Report::default(),
        connection: &Connection::default(),
        origins: &Origins::default(),
        totals: &std::collections::BTreeMap::new(),
        traffic: None,
        forwarder: Metrics::default().forwarder(),
        selftests: &[(vip, latest)].into(),
    });
    status.phase = "programmed".to_owned();
    status.api.state = "synced".to_owned();
    status.dataplane.in_use = "nftables".to_owned();
    status.problems.clear();
    status.frontends = vec![FrontendStatus {
        vip,
        port_name: "https".to_owned(),
        client_affinity: false,
        local_route_allowed: true,
        backends: vec![
            backend(11, "healthy", true),
            backend(12, "failed", false),
            backend(13, "healthy", true),
        ],
    }];
    status
}

fn html(status: &Status) -> String {
    page(status, &StateHistory::default(), "node-1", NONCE)
}

#[test]
fn drawing_shows_states_and_shares() {
    let html = html(&status());
    for text in
        ["Serving</b>", "192.0.2.12:6443", "failed, timeout", "healthy \u{b7} 50 %", "0.31ms", "on node-1"]
    {
        assert!(html.contains(text), "{text:?} is missing in\n{html}");
    }
    assert!(!html.contains("{{"), "{html}");
    // One drawing for broad windows and one for narrow ones.
    assert_eq!(html.matches("<svg ").count(), 2);
    assert!(html.contains("192.0.2.12:6443: failed, none of new connections"), "{html}");
}

#[test]
fn foreign_text_is_escaped() {
    let mut status = status();
    let clean = html(&status).matches('<').count();
    let evil = || EVIL.to_owned();
    status.summary = evil();
    status.service = evil();
    status.frontends[0].port_name = evil();
    status.frontends[0].backends[0].state = evil();
    status.api.last_error = Some(evil());
    status.version = evil();
    status.phase = "programmed".to_owned();
    assert_eq!(html(&status).matches('<').count(), clean);
    status.dataplane.in_use = "forwarder".to_owned();
    status.dataplane.reason = Some(evil());
    status.problems = vec![Problem { severity: Severity::Warning, message: evil(), action: evil() }];
    status.repairs.latest = vec![RepairStatus {
        object: "table".to_owned(),
        seconds_ago: 1,
        found: "event".to_owned(),
        changes: 1,
        by: Some(evil()),
    }];
    status.transitions = vec![TransitionStatus {
        timestamp: 0,
        seconds_ago: 2,
        backend: ([192, 0, 2, 11], 6443).into(),
        from: evil(),
        to: evil(),
        reason: Some(evil()),
        trigger: evil(),
        decision_ms: 1,
        commit_ms: 1,
        flows_ms: Some(3),
        flows: Some(4),
        remaining: Some(1),
    }];
    let html = page(&status, &StateHistory::default(), EVIL, NONCE);
    assert!(html.matches("<script").count() == 1 && html.contains("<script nonce"), "{html}");
    assert!(html.contains("3 of 4 connections ended in 3 ms"), "{html}");
}

#[test]
fn verdict_is_the_first_thing_on_the_page() {
    let mut status = status();
    status.selftests[0].ready = false;
    assert!(html(&status).contains("pill bad\">Not answering"));
    status.selftests[0].ready = true;
    status.problems = vec![Problem {
        severity: Severity::Warning,
        message: "something".to_owned(),
        action: "look".to_owned(),
    }];
    let text = html(&status);
    assert!(text.contains("pill warn\">Serving, with problems") && text.contains("<em>Look.</em>"), "{text}");
    status.phase = "failed".to_owned();
    assert!(html(&status).contains("pill bad\">Failed"));
}

#[test]
fn page_is_small_and_loads_nothing() {
    let html = html(&status());
    assert!(TEMPLATE.len() < 12 << 10 && html.len() < 20 << 10, "{} of {}", TEMPLATE.len(), html.len());
    for outside in ["src=", "url(", "@import", "https://", "style="] {
        assert!(!html.contains(outside), "{outside:?} in\n{html}");
    }
}
