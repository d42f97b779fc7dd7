//! What an operator should look after, each with what to do about it: made of the rest of the document.

use serde::{Deserialize, Serialize};

use super::document::{BackendStatus, Status, duration, expiry};
use crate::model::sources::EndpointSource;
use crate::process::clock::unix_now;

/// A repair is news for so long, in seconds.
const RECENT: u64 = 600;
/// A CA or a client certificate that expires within a week should have been renewed by now: kubelet does it when a
/// fifth of the lifetime is left, kubeadm with each upgrade.
const SOON: i64 = 7 * 86_400;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is, and since when.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

/// All of them, the most pressing first.
pub(super) fn of(status: &Status) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |what: String, todo: &str| problems.push(Problem { what, todo: todo.to_owned() });
    match status.phase.as_str() {
        "failed" => add(status.summary.clone(), "Run apivip check to find what the kernel or its rules lack"),
        "unrouted" => add(
            status.summary.clone(),
            "Pods are served. Programs on this node may have no route to the virtual IP. apivip retries every 5 s",
        ),
        "starting" | "waiting" => add(status.summary.clone(), "Check the state of the API connection"),
        _ => {}
    }
    for test in status.selftests.iter().filter(|test| !test.ready || !test.is_ours()) {
        let seen = test.explanation.as_deref().filter(|_| !test.is_ours());
        let seen = seen.map(|seen| format!("; {seen}")).unwrap_or_default();
        let todo = match (test.answered_by.as_deref(), test.is_ours()) {
            (Some("neighbour-reject"), _) => {
                "Fix what prevents the nftables rules. Pods are served, and programs on this node can use --listen"
            }
            (_, false) => {
                "Remove the virtual IP from the named component, or leave it to that component and stop apivip"
            }
            _ => "Check the states of the API servers and the network path from this node to them",
        };
        add(format!("Connection from this node to {} {}{seen}", test.vip, test.result()), todo);
    }
    for test in &status.selftests {
        if let Some(came) = test.others_blocked {
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
    for hold in &status.holds {
        add(capitalized(hold), "Inspect the Service, its EndpointSlices and the states of the API servers");
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
        if let Some((what, todo)) = of_backend(backend) {
            add(what, todo);
        }
    }
    for (what, todo) in of_callers(&backends) {
        add(what, todo);
    }
    let now = unix_now().cast_signed();
    for (credential, end) in status.api.expiry.dates() {
        let left = end.saturating_sub(now);
        if left < 0 || (left < SOON && credential != "token") {
            let what = format!("The {}", expiry(credential, left));
            add(what, "Renew it. apivip reads it again within seconds");
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

/// Problems with the daemon's credentials, one for all apiservers that answer alike.
fn of_callers(backends: &[&BackendStatus]) -> Vec<(String, &'static str)> {
    let those = |wanted: fn(&BackendStatus) -> bool| {
        let found: Vec<String> = backends
            .iter()
            .filter(|backend| wanted(backend))
            .map(|backend| backend.address.to_string())
            .collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let refused = those(|backend| backend.caller.as_deref() == Some("refused")).map(|who| {
        let what =
            format!("API servers reject the credentials of apivip (401) and are probed without them: {who}");
        (what, "Renew the credentials. Until then, each request without them needs a connection of its own")
    });
    let unknown = those(|backend| backend.readiness_known == Some(false)).map(|who| {
        let what = format!("Readiness is unknown and assumed: {who}");
        (what, "Allow the user of apivip to get /readyz, as the ClusterRole system:public-info-viewer does")
    });
    refused.into_iter().chain(unknown).collect()
}

/// The same with a capital letter at the beginning.
fn capitalized(text: &str) -> String {
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
        let what = format!(
            "{address} failed repeatedly. It answers again and stays in hold-down for {seconds}s more"
        );
        return Some((what, "Find out why it fails and recovers repeatedly"));
    }
    match backend.state.as_str() {
        "suspect" => {
            let reason = backend.failing.as_deref().unwrap_or("no answer");
            let kept =
                backend.withheld.as_deref().map(|why| format!("; its connections are not reset: {why}"));
            let todo = "Check that API server and the network path to it. New connections use the others";
            Some((
                format!("{address} has not answered for {since}: {reason}{}", kept.unwrap_or_default()),
                todo,
            ))
        }
        "failed" => {
            let todo = "Check that API server and the network path to it. Its connections were reset, and new ones use the others";
            Some((format!("{address} failed {since} ago"), todo))
        }
        "late" => {
            let todo = "Find out why it is slow. It keeps its connections";
            Some((format!("{address} has answered late for {since}"), todo))
        }
        "draining" => {
            let todo =
                "Query its /readyz?verbose for the reason. It keeps its connections and gets no new ones";
            Some((format!("{address} has been alive but not ready for {since}"), todo))
        }
        _ => {
            let reason = backend.failing.as_deref()?;
            Some((
                format!("Probes of {address} fail: {reason}"),
                "Check that API server and the network path to it",
            ))
        }
    }
}
