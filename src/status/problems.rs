//! What an operator should look after, each with what to do about it: made of the rest of the document.

use std::collections::BTreeSet;

use super::document::{BackendStatus, FrontendStatus, Problem, SelfTestStatus, Status, duration, expiry};
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

/// What to do about something that is kept.
const RETAINED: &str = "Inspect the Service, its EndpointSlices and the states of the API servers";

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
        add(status.summary.clone(), "Run apivip check to find what the kernel or its rules lack");
    }
    for test in status.selftests.iter().filter(|test| !test.ready) {
        let (message, action) = of_selftest(test);
        add(message, action);
    }
    for reason in reasons {
        add(capitalized(&reason.to_string()), RETAINED);
    }
    let explained: BTreeSet<Vip> = reasons.iter().filter_map(|reason| of_health(reason)).collect();
    for vip in unusable.difference(&explained) {
        add(
            format!("No API server of {vip} can be used: none is healthy"),
            "Check the states of the API servers and the network path from this node to them",
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
            "Pods are served. Programs on this node may have no route to the virtual IP. apivip retries every 5 s",
        ),
        "starting" | "waiting" => add(status.summary.clone(), "Check the state of the API connection"),
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
                    "Connections from Pods and other hosts are dropped on this node: {came} arrived for {} and none left",
                    test.vip
                ),
                "Find what drops them: nft list ruleset and iptables-save, chains of the hook forward; sysctl net.ipv4.ip_forward. No action is needed if a network policy blocks those Pods",
            );
        }
    }
    let path = &status.dataplane;
    if let Some(reason) = path.reason.as_ref().filter(|_| path.fallback_active) {
        add(
            format!(
                "The forwarder has been active as the fallback for {}: {reason}",
                duration(path.since_seconds)
            ),
            "Fix the cause. apivip retries the rules twice a second",
        );
    }
    if path.accept_paused {
        add(
            format!("The forwarder accepts no more connections: it has {}", path.forwarder_connections),
            "Raise --forwarder-max-connections and the limit of open files",
        );
    }
    for reason in reasons {
        add(capitalized(&reason.to_string()), RETAINED);
    }
    if let Some(waiting) = status.api.waiting().filter(|_| status.api.state != "synced") {
        add(
            format!("Cannot read the API: {waiting}"),
            "Run the plugin by hand to see what it waits for. apivip runs it again after that process has ended",
        );
    } else if status.api.state != "synced" {
        let error = status.api.last_error.as_deref().unwrap_or("no API server has answered yet");
        add(format!("Cannot read the API: {error}"), "Fix the cause. The last known state stays in use");
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
            let message = format!("The {}", expiry(credential, left));
            add(message, "Renew it. apivip reads it again within seconds");
        }
    }
    for rejection in &status.rejected {
        add(format!("Ignored address: {rejection}"), "Correct it at the source of the endpoints");
    }
    if let Some(repair) = status.repairs.latest.first().filter(|repair| repair.seconds_ago < RECENT) {
        let by = repair.by.as_deref().unwrap_or("An unknown program");
        let ago = duration(repair.seconds_ago);
        add(
            format!("{by} changed the {} of apivip {ago} ago, and apivip repaired the change", repair.object),
            "Prevent that program from changing table inet apivip and routes with protocol 97",
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
            "Fix what prevents the nftables rules. Pods are served, and programs on this node can use --listen"
        }
        (_, false) => {
            "Remove the virtual IP from the named component, or leave it to that component and stop apivip"
        }
        _ => "Check the states of the API servers and the network path from this node to them",
    };
    (format!("Connection from this node to {} {}{seen}", test.vip, test.result()), action)
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
            format!("API servers reject the credentials of apivip (401) and are probed without them: {who}");
        (
            message,
            "Renew the credentials. Until then, each request without them needs a connection of its own",
        )
    });
    let unknown = those(|backend| backend.readiness_known == Some(false)).map(|who| {
        let message = format!("Readiness is unknown and assumed: {who}");
        (
            message,
            "Allow the user of apivip to get /readyz, as the ClusterRole system:public-info-viewer does",
        )
    });
    refused.into_iter().chain(unknown).collect()
}

/// The same with a capital letter at the beginning.
pub(crate) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

fn of_backend(backend: &BackendStatus) -> Option<(String, &'static str)> {
    let address = backend.address;
    let since = backend.since_seconds.map(duration).unwrap_or_default();
    let expected = backend.published || backend.source == Some(EndpointSource::Seed);
    if !expected {
        return None;
    }
    if let Some(seconds) = backend.hold_down_seconds {
        let message = format!(
            "{address} failed repeatedly. It answers again and stays in hold-down for {seconds}s more"
        );
        return Some((message, "Find out why it fails and recovers repeatedly"));
    }
    match backend.state.as_str() {
        "suspect" => {
            let reason = backend.failure.as_deref().unwrap_or("no answer");
            let kept = backend.reset_withheld.map(|why| format!("; its connections are not reset: {why}"));
            let action = "Check that API server and the network path to it. New connections use the others";
            Some((
                format!("{address} has not answered for {since}: {reason}{}", kept.unwrap_or_default()),
                action,
            ))
        }
        "failed" => {
            let action = "Check that API server and the network path to it. Its connections were reset, and new ones use the others";
            Some((format!("{address} failed {since} ago"), action))
        }
        "late" => {
            let action = "Find out why it is slow. It keeps its connections";
            Some((format!("{address} has answered late for {since}"), action))
        }
        "draining" => {
            let action =
                "Query its /readyz?verbose for the reason. It keeps its connections and gets no new ones";
            Some((format!("{address} has been alive but not ready for {since}"), action))
        }
        _ => {
            let reason = backend.failure.as_deref()?;
            Some((
                format!("Probes of {address} fail: {reason}"),
                "Check that API server and the network path to it",
            ))
        }
    }
}

#[cfg(test)]
mod tests;
