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
        "failed" => add(status.summary.clone(), "apivip check tells what this kernel and its rules lack"),
        "unrouted" => add(
            status.summary.clone(),
            "Pods are served; programs of the node may lack a route to the virtual IP. It is tried again every 5 s",
        ),
        "starting" | "waiting" => add(status.summary.clone(), "see the state of the API below"),
        _ => {}
    }
    for test in status.selftests.iter().filter(|test| !test.ready || !test.is_ours()) {
        let seen = test.explanation.as_deref().filter(|_| !test.is_ours());
        let seen = seen.map(|seen| format!("; {seen}")).unwrap_or_default();
        let todo = match (test.answered_by.as_deref(), test.is_ours()) {
            (Some("neighbour-reject"), _) => {
                "mend why the forwarder stands in; Pods are served, and programs of the node at --listen"
            }
            (_, false) => {
                "take the virtual IP out of what the line names, or leave it to that and stop apivip"
            }
            _ => "see which apiservers are up below, and the way from this node to them",
        };
        add(format!("a connection of this node to {} {}{seen}", test.vip, test.result()), todo);
    }
    for test in &status.selftests {
        if let Some(came) = test.others_blocked {
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
    for hold in &status.holds {
        add(hold.clone(), "the last good ones go on; see what the Service and its EndpointSlices say");
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
            let what = format!("the {}", expiry(credential, left));
            add(what, "renew it; it is read again within seconds");
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
            format!("the daemon's credentials are refused (401) by {who}, which are asked without any");
        (what, "renew the credentials; until then each question costs them a connection of its own")
    });
    let unknown = those(|backend| backend.readiness_known == Some(false)).map(|who| {
        let what = format!("whether these are ready is unknown, and taken for granted: {who}");
        (what, "let the daemon's user get /readyz, as the ClusterRole system:public-info-viewer does")
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
        let what = format!("{address} failed repeatedly; it answers, and is held down for {seconds}s more");
        return Some((what, "look why it comes and goes"));
    }
    match backend.state.as_str() {
        "suspect" => {
            let reason = backend.failing.as_deref().unwrap_or("no answer");
            let kept =
                backend.withheld.as_deref().map(|why| format!("; its connections are left alone: {why}"));
            let todo = "look at that apiserver and the way to it; new connections go to others";
            Some((
                format!("{address} does not answer for {since}: {reason}{}", kept.unwrap_or_default()),
                todo,
            ))
        }
        "failed" => {
            let todo =
                "look at that apiserver and the way to it; its clients were told, and others serve them";
            Some((format!("{address} is gone for {since}"), todo))
        }
        "late" => {
            let todo = "see what keeps it busy; it keeps its connections";
            Some((format!("{address} answers late for {since}"), todo))
        }
        "draining" => {
            let todo = "ask it why, at /readyz?verbose; it keeps its connections and gets no new ones";
            Some((format!("{address} is alive but not ready for {since}"), todo))
        }
        _ => {
            let reason = backend.failing.as_deref()?;
            Some((format!("probes of {address} fail: {reason}"), "look at that apiserver and the way to it"))
        }
    }
}
