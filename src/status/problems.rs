//! What an operator should look after, each with what to do about it: made of the rest of the document.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::document::{BackendStatus, FrontendStatus, SelfTestStatus, Status, duration, expiry};
use crate::model::desired::FailOpenReason;
use crate::model::sources::EndpointSource;
use crate::model::types::Vip;
use crate::model::verdict::Severity;
use crate::process::clock::unix_now;

/// A repair is news for so long, in seconds.
const RECENT: u64 = 600;
/// A CA or a client certificate that expires within a week should have been renewed by now: kubelet does it when a
/// fifth of the lifetime is left, kubeadm with each upgrade.
const SOON: i64 = 7 * 86_400;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, and since when.
    pub message: String,
    /// What to do about it.
    pub action: String,
}

impl Problem {
    fn new(severity: Severity, message: String, action: &str) -> Self {
        Self { severity, message, action: action.to_owned() }
    }
}

/// What to do about something that is kept.
const RETAINED: &str = "the last good ones go on; see what the Service and its EndpointSlices say";

/// All of them, critical ones first, and of each severity the most pressing one first. `fail_open`: why something is kept.
pub(super) fn of(status: &Status, fail_open: &[FailOpenReason]) -> Vec<Problem> {
    let unusable: BTreeSet<Vip> = status
        .frontends
        .iter()
        .filter(|frontend| is_unusable(frontend))
        .map(|frontend| frontend.vip)
        .collect();
    let (critical, other): (Vec<_>, Vec<_>) =
        fail_open.iter().partition(|reason| of_health(reason).is_some_and(|vip| unusable.contains(&vip)));
    let mut problems = criticals(status, &unusable, &critical);
    problems.extend(warnings(status, &other));
    problems
}

/// No API server of it is healthy or late. One that was not probed yet may be either.
fn is_unusable(frontend: &FrontendStatus) -> bool {
    let is_usable = |backend: &BackendStatus| match backend.state.as_str() {
        "healthy" | "late" => true,
        "unknown" => backend.failure.is_none(),
        _ => false,
    };
    !frontend.backends.iter().any(is_usable)
}

/// The virtual IP of which no API server answers, or none is ready.
fn of_health(reason: &FailOpenReason) -> Option<Vip> {
    match reason {
        FailOpenReason::NoneReady { vip } | FailOpenReason::NoneAnswers { vip, .. } => Some(*vip),
        _ => None,
    }
}

fn criticals(status: &Status, unusable: &BTreeSet<Vip>, reasons: &[&FailOpenReason]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add =
        |message: String, action: &str| problems.push(Problem::new(Severity::Critical, message, action));
    if status.phase == "failed" {
        add(status.summary.clone(), "apivip check tells what this kernel and its rules lack");
    }
    for test in status.selftests.iter().filter(|test| !test.ready) {
        let (message, action) = of_selftest(test);
        add(message, action);
    }
    for reason in reasons {
        add(reason.to_string(), RETAINED);
    }
    let explained: BTreeSet<Vip> = reasons.iter().filter_map(|reason| of_health(reason)).collect();
    for vip in unusable.difference(&explained) {
        add(
            format!("no API server of {vip} can be used: none is healthy"),
            "look at the API servers and the way from this node to them",
        );
    }
    problems
}

fn warnings(status: &Status, reasons: &[&FailOpenReason]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add =
        |message: String, action: &str| problems.push(Problem::new(Severity::Warning, message, action));
    match status.phase.as_str() {
        "unrouted" => add(
            status.summary.clone(),
            "Pods are served; programs of the node may lack a route to the virtual IP. It is tried again every 5 s",
        ),
        "starting" | "waiting" => add(status.summary.clone(), "see the state of the API below"),
        _ => {}
    }
    for test in status.selftests.iter().filter(|test| test.ready && !test.is_ours()) {
        let (message, action) = of_selftest(test);
        add(message, action);
    }
    for test in &status.selftests {
        if let Some(came) = test.pod_connections_blocked {
            add(
                format!(
                    "{came} connections of Pods and other hosts came to {} and none left this node: they are dropped on their way",
                    test.vip
                ),
                "see what drops them: nft list ruleset and iptables-save, chains of the hook forward; sysctl net.ipv4.ip_forward; nothing, if a network policy keeps those Pods off",
            );
        }
    }
    let path = &status.dataplane;
    if let Some(reason) = path.reason.as_ref().filter(|_| path.fallback_active) {
        add(
            format!("the forwarder stands in for rules since {}: {reason}", duration(path.since_seconds)),
            "mend the cause; rules are tried again twice a second",
        );
    }
    if path.accept_paused {
        add(
            format!("the forwarder takes no more connections, it has {}", path.forwarder_connections),
            "raise --forwarder-max-connections and the limit of open files",
        );
    }
    for reason in reasons {
        add(reason.to_string(), RETAINED);
    }
    if let Some(waiting) = status.api.waiting().filter(|_| status.api.state != "synced") {
        add(
            format!("the API is not read: {waiting}"),
            "run it by hand to see what it waits for; once that process has ended, it is run again",
        );
    } else if status.api.state != "synced" {
        let error = status.api.last_error.as_deref().unwrap_or("no apiserver has answered yet");
        add(format!("the API is not read: {error}"), "mend the cause; what is known is used meanwhile");
    }
    let mut backends: Vec<&BackendStatus> = status.frontends.iter().flat_map(|f| &f.backends).collect();
    backends.sort_by_key(|backend| backend.address);
    backends.dedup_by_key(|backend| backend.address);
    for backend in &backends {
        if let Some((message, action)) = of_backend(backend) {
            add(message, action);
        }
    }
    for (message, action) in of_authentication(&backends) {
        add(message, action);
    }
    let now = unix_now().cast_signed();
    for (credential, end) in status.api.expiry.dates() {
        let left = end.saturating_sub(now);
        if left < 0 || (left < SOON && credential != "token") {
            let message = format!("the {}", expiry(credential, left));
            add(message, "renew it; it is read again within seconds");
        }
    }
    for rejection in &status.rejected {
        add(format!("left out: {rejection}"), "correct it where the endpoints come from");
    }
    if let Some(repair) = status.repairs.latest.first().filter(|repair| repair.seconds_ago < RECENT) {
        let by = repair.by.as_deref().unwrap_or("somebody");
        let ago = duration(repair.seconds_ago);
        add(
            format!("{by} changed the {} of apivip {ago} ago; it was repaired", repair.object),
            "keep that program from table inet apivip and from routes with protocol 97",
        );
    }
    problems
}

/// A self-test that failed, or whose connection another component took.
fn of_selftest(test: &SelfTestStatus) -> (String, &'static str) {
    let seen = test.explanation.as_deref().filter(|_| !test.is_ours());
    let seen = seen.map(|seen| format!("; {seen}")).unwrap_or_default();
    let action = match (test.answered_by.as_deref(), test.is_ours()) {
        (Some("other_program_reject"), _) => {
            "mend why the forwarder stands in; Pods are served, and programs of the node at --listen"
        }
        (_, false) => "take the virtual IP out of what the line names, or leave it to that and stop apivip",
        _ => "see which apiservers are up below, and the way from this node to them",
    };
    (format!("a connection of this node to {} {}{seen}", test.vip, test.result()), action)
}

/// Problems with the daemon's credentials, one for all apiservers that answer alike.
fn of_authentication(backends: &[&BackendStatus]) -> Vec<(String, &'static str)> {
    let those = |wanted: fn(&BackendStatus) -> bool| {
        let found: Vec<String> = backends
            .iter()
            .filter(|backend| wanted(backend))
            .map(|backend| backend.address.to_string())
            .collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let refused = those(|backend| backend.authentication.as_deref() == Some("refused")).map(|who| {
        let message =
            format!("the daemon's credentials are refused (401) by {who}, which are asked without any");
        (message, "renew the credentials; until then each question costs them a connection of its own")
    });
    let unknown = those(|backend| backend.readiness_known == Some(false)).map(|who| {
        let message = format!("whether these are ready is unknown, and taken for granted: {who}");
        (message, "let the daemon's user get /readyz, as the ClusterRole system:public-info-viewer does")
    });
    refused.into_iter().chain(unknown).collect()
}

fn of_backend(backend: &BackendStatus) -> Option<(String, &'static str)> {
    let address = backend.address;
    let since = backend.since_seconds.map(duration).unwrap_or_default();
    let expected = backend.published || backend.source == Some(EndpointSource::Seed);
    if !expected {
        return None;
    }
    if let Some(seconds) = backend.hold_down_seconds {
        let message =
            format!("{address} failed repeatedly; it answers, and is held down for {seconds}s more");
        return Some((message, "look why it comes and goes"));
    }
    match backend.state.as_str() {
        "suspect" => {
            let reason = backend.failure.as_deref().unwrap_or("no answer");
            let kept = backend.reset_withheld.map(|why| format!("; its connections are left alone: {why}"));
            let action = "look at that apiserver and the way to it; new connections go to others";
            Some((
                format!("{address} does not answer for {since}: {reason}{}", kept.unwrap_or_default()),
                action,
            ))
        }
        "failed" => {
            let action =
                "look at that apiserver and the way to it; its clients were told, and others serve them";
            Some((format!("{address} is gone for {since}"), action))
        }
        "late" => {
            let action = "see what keeps it busy; it keeps its connections";
            Some((format!("{address} answers late for {since}"), action))
        }
        "draining" => {
            let action = "ask it why, at /readyz?verbose; it keeps its connections and gets no new ones";
            Some((format!("{address} is alive but not ready for {since}"), action))
        }
        _ => {
            let reason = backend.failure.as_deref()?;
            Some((format!("probes of {address} fail: {reason}"), "look at that apiserver and the way to it"))
        }
    }
}

#[cfg(test)]
mod tests;
