use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::kube::Connection;
use crate::metrics::Metrics;
use crate::model::health::sample as health;
use crate::model::health::{BackendHealth, HealthState, HealthView};
use crate::model::report::Report;
use crate::model::snapshot::{ServiceStatus, Snapshot};
use crate::model::sources::Origins;
use crate::model::verdict::{Severity, Verdict};
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
        round_trip_us: (state != "failed").then_some(310),
        connections: 7,
        forwarded_connections: u64::from(last),
        forwarded_open: 1,
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
        outcome: Ok(Duration::from_millis(2)),
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
    status.verdict = Verdict::Healthy;
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
        ["healthy</b>", "192.0.2.12:6443", "failed, timeout", "healthy \u{b7} 50 %", "0.31ms", "on node-1"]
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
    status.api.last_error = Some("refused".to_owned());
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
    status.selftests[0].pod_traffic = evil();
    status.selftests[0].answered_by = Some(evil());
    status.repairs.latest = vec![RepairStatus {
        object: "table".to_owned(),
        timestamp: 0,
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

/// The class of the `i`th edge that comes from Pods (0) or from this node (1), in the drawing for broad windows.
fn source_edge(html: &str, i: usize) -> &str {
    let edge = html.split("<path class=\"edge source ").nth(i + 1).unwrap();
    edge.split('"').next().unwrap()
}

#[test]
fn verdict_and_problems_come_first_with_their_colors() {
    let problem = |severity, message: &str| Problem {
        severity,
        message: message.to_owned(),
        action: "look there".to_owned(),
    };
    let mut status = status();
    for (verdict, word, class) in [
        (Verdict::Healthy, "healthy", "ok"),
        (Verdict::Degraded, "degraded", "warn"),
        (Verdict::Failing, "failing", "bad"),
    ] {
        status.verdict = verdict;
        let html = html(&status);
        assert!(html.contains(&format!("<b class=\"pill {class}\">{word}</b>")), "{html}");
        assert!(html.contains(&format!("<title>{word}: node-1 - apivip</title>")), "{html}");
    }
    status.problems = vec![problem(Severity::Critical, "one"), problem(Severity::Warning, "two")];
    let html = html(&status);
    let wanted = "<li class=\"bad\"><b>critical</b><p>one</p><p>look there</p></li>\
                  <li class=\"warn\"><b>warning</b><p>two</p><p>look there</p></li>";
    assert!(html.find(wanted).unwrap() < html.find("<dl>").unwrap(), "{html}");
}

#[test]
fn edge_of_this_node_follows_the_self_test() {
    let mut status = status();
    assert_eq!(source_edge(&html(&status), 1), "ok");
    for (ready, by, class) in [
        (true, Some("forwarder"), "ok"),
        (true, Some("other_program_dnat"), "warn"),
        (true, Some("before_netfilter"), "warn"),
        (true, Some("unknown"), "unknown"),
        (false, Some("rules"), "bad"),
        (false, None, "bad"),
    ] {
        status.selftests[0].ready = ready;
        status.selftests[0].answered_by = by.map(str::to_owned);
        assert_eq!(source_edge(&html(&status), 1), class, "{ready} {by:?}");
    }
    // Another port has no test of its own.
    status.selftests[0].vip.set_port(80);
    assert_eq!(source_edge(&html(&status), 1), "unknown");
    status.selftests.clear();
    let html = html(&status);
    assert_eq!((source_edge(&html, 0), source_edge(&html, 1)), ("unknown", "unknown"));
    assert!(
        html.contains("Pods (traffic not known) and this node (not tested) reach 10.96.0.1:443"),
        "{html}"
    );
}

#[test]
fn edge_of_pods_follows_their_traffic() {
    let mut status = status();
    for (traffic, class) in [("passing", "ok"), ("blocked", "bad"), ("unknown", "unknown")] {
        status.selftests[0].pod_traffic = traffic.to_owned();
        assert_eq!(source_edge(&html(&status), 0), class, "{traffic}");
    }
}

#[test]
fn dataplane_and_ownership_have_cells_of_their_own() {
    let mut status = status();
    let cell = |html: &str, name: &str| {
        let value = html.split(&format!("<dt>{name}</dt><dd>")).nth(1).unwrap();
        value.split("</dd>").next().unwrap().to_owned()
    };
    status.dataplane.reason = Some("--mode auto: the kernel takes the rules".to_owned());
    status.dataplane.table_owned = true;
    let shown = html(&status);
    assert_eq!(cell(&shown, "New connections use"), "nftables rules");
    assert_eq!(cell(&shown, "Reason"), "--mode auto: the kernel takes the rules");
    assert!(cell(&shown, "Table inet apivip").starts_with("owned"), "{shown}");
    status.dataplane.in_use = "forwarder".to_owned();
    status.dataplane.fallback_active = true;
    status.dataplane.forwarder_connections = 3;
    let shown = html(&status);
    assert_eq!(cell(&shown, "New connections use"), "the forwarder, as the fallback");
    assert_eq!(cell(&shown, "Open forwarded connections"), "3");
}

#[test]
fn row_has_all_connections_and_no_round_trip_of_one_that_does_not_answer() {
    let html = html(&status());
    let row = |n: usize| html.split("<tr><td").nth(n).unwrap().split("</tr>").next().unwrap();
    for text in [">0.31ms</td>", ">18</td>", ">11 (1 open)</td>"] {
        assert!(row(1).contains(text), "{text:?} is missing in {}", row(1));
    }
    assert!(row(2).contains("<td data-is=\"Round trip\" class=\"num\">\u{2013}</td>"), "{}", row(2));
}

#[test]
fn event_has_its_own_time_whenever_the_page_is_made() {
    let mut status = status();
    let event = |timestamp, last: u8| TransitionStatus {
        timestamp,
        seconds_ago: 5,
        backend: ([192, 0, 2, last], 6443).into(),
        from: "healthy".to_owned(),
        to: "suspect".to_owned(),
        reason: None,
        trigger: String::new(),
        decision_ms: 1,
        commit_ms: 1,
        flows_ms: None,
        flows: None,
        remaining: None,
    };
    status.transitions = vec![event(1_772_600_709, 12), event(1_772_600_709, 13), event(1_772_600_700, 11)];
    let shown = html(&status);
    let times: Vec<&str> =
        shown.split("<time>").skip(1).map(|rest| rest.split("</time>").next().unwrap()).collect();
    assert_eq!(times, ["2026-03-04 05:05:09 UTC", "2026-03-04 05:05:00 UTC"]);
    assert!(shown.contains("192.0.2.12:6443, 192.0.2.13:6443: healthy"), "{shown}");
    for transition in &mut status.transitions {
        transition.seconds_ago += 1;
    }
    let timeline = |html: &str| html.split("<ol>").nth(1).unwrap().split("</ol>").next().unwrap().to_owned();
    assert_eq!(timeline(&html(&status)), timeline(&shown));
}

#[test]
fn sparkline_has_a_scale_and_ends_where_the_answers_end() {
    let mut history = StateHistory::default();
    let mut sample = |state: HealthState, micros: u64| {
        let (service, rejected) = (ServiceStatus::Found, Default::default());
        let snapshot = Snapshot { generation: 1, service, frontends: Vec::new(), rejected };
        let mut view = HealthView::unprobed(Arc::new(snapshot), Instant::now());
        let round_trip = Some(Duration::from_micros(micros));
        view.backends.insert(([192, 0, 2, 11], 6443).into(), BackendHealth { round_trip, ..health(state) });
        history.sample(&Report { view: Some(view), ..Report::default() });
    };
    sample(HealthState::Healthy, 250);
    sample(HealthState::Healthy, 500);
    sample(HealthState::Suspect, 9_000);
    let html = page(&status(), &history, "node-1", NONCE);
    assert!(html.contains(">0.50ms</text>") && !html.contains("9.00ms"), "{html}");
    // Two points in each of the two drawings.
    let lines = html.split("<path class=\"spark\" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let points: Vec<usize> = lines.map(|line| line.matches(['M', 'L']).count()).collect();
    assert_eq!(points, [2, 2]);
}

#[test]
fn page_is_small_and_loads_nothing() {
    let html = html(&status());
    assert!(TEMPLATE.len() < 12 << 10 && html.len() < 20 << 10, "{} of {}", TEMPLATE.len(), html.len());
    for outside in ["src=", "url(", "@import", "https://", "style="] {
        assert!(!html.contains(outside), "{outside:?} in\n{html}");
    }
}
