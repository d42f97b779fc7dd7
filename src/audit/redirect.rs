//! Verdicts on the virtual IP on this node, and on who might take it. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::catalogue::redirect::{
    ANSWER, CLAIMS, LISTENERS, NONLOCAL, ROUTE_LOCALNET, RP_FILTER, SOCKETS, TABLES,
};
use super::control::Served;
use super::finding::{Check, Finding};
use crate::check::finding as doctor;
use crate::check::settings::Settings;
use crate::columns::few;

/// What was found on the node.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// Virtual IPs and ports.
    pub vips: BTreeSet<SocketAddr>,
    /// The status of the running daemon.
    pub status: Option<Value>,
    /// What `apivip check` says of neighbours and of the virtual IPs.
    pub doctor: Vec<doctor::Finding>,
    /// A kube-proxy's rules guard loopback addresses.
    pub guarded: bool,
    /// How the kernel is set.
    pub settings: Settings,
    /// The effective `rp_filter` of each interface but loopback.
    pub rp_filter: Option<Vec<(String, i64)>>,
    /// `net.ipv4.ip_nonlocal_bind` and that of IPv6, as far as they can be read.
    pub nonlocal: Vec<(&'static str, Option<bool>)>,
    /// Sockets that listen on one of the virtual IPs, with the process, if that is known; or why that cannot be seen.
    pub listeners: Option<Result<Vec<Listener>, String>>,
    /// All Services, or why they cannot be listed.
    pub services: Option<Result<Vec<Served>, String>>,
}

/// A socket that listens on a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The process.
    pub pid: Option<u64>,
    /// The same in the pid namespace of its own, which is how a daemon in a Pod knows itself.
    pub inner: Option<u64>,
}

const NO_VIP: &str = "no virtual IP is known";
const GIVE_VIP: &str = "give --vip ADDRESS:PORT, or access to the API";

/// All findings.
pub fn findings(seen: &Redirect) -> Vec<Finding> {
    let mut all = answers(seen);
    all.push(doctored(seen, &TABLES, "nat-order"));
    all.push(doctored(seen, &SOCKETS, "socket-translation"));
    all.push(listeners(seen));
    all.push(claims(seen));
    all.push(nonlocal(seen));
    all.push(rp_filter(seen));
    all.push(route_localnet(seen));
    all
}

fn answers(seen: &Redirect) -> Vec<Finding> {
    let run = "run the daemon, and give its --run-dir";
    let Some(status) = &seen.status else { return vec![ANSWER.unknown("no daemon answers", run)] };
    let tests: Vec<&Value> = status["selftests"].as_array().into_iter().flatten().collect();
    if tests.is_empty() {
        let why = "the daemon has not dialled the virtual IP";
        return vec![
            ANSWER.unknown(why, "wait some seconds after its start; --selftest-interval must not be off"),
        ];
    }
    let judge = |test: &&Value| {
        let text = |key: &str| test[key].as_str().unwrap_or_default();
        let sentence = text("explanation");
        match (text("answered_by"), test["ready"].as_bool()) {
            ("rules" | "forwarder", Some(true)) => ANSWER.pass(sentence),
            ("rules" | "forwarder", _) => ANSWER.unknown(
                format!("{sentence}, and no apiserver answers: {}", text("failing")),
                "apivip status",
            ),
            ("" | "unknown" | "neighbour-reject", _) => ANSWER.unknown(
                format!("no connection came about: {}", text("failing")),
                "apivip status, apivip check",
            ),
            (_, _) => ANSWER.fail(sentence),
        }
        .about(text("vip"))
    };
    tests.iter().map(judge).collect()
}

/// What the doctor says of the same.
fn doctored(seen: &Redirect, check: &Check, id: &str) -> Finding {
    let Some(found) = seen.doctor.iter().find(|finding| finding.id == id) else {
        return check.unknown("it was not looked at", "run apivip check");
    };
    let mend = found.mend.clone().unwrap_or_else(|| check.setting.to_owned());
    match found.verdict {
        doctor::Verdict::Ok | doctor::Verdict::Info => check.pass(found.evidence.as_str()),
        doctor::Verdict::Unknown => check.unknown(found.evidence.as_str(), mend),
        doctor::Verdict::Warning | doctor::Verdict::Fail => {
            check.fail(found.evidence.as_str()).mended_by(mend)
        }
    }
}

fn listeners(seen: &Redirect) -> Finding {
    if seen.vips.is_empty() {
        return LISTENERS.unknown(NO_VIP, GIVE_VIP);
    }
    let listeners = match &seen.listeners {
        Some(Ok(listeners)) => listeners,
        Some(Err(error)) => return LISTENERS.unknown(error.as_str(), "mount /proc of the host's network"),
        None => return LISTENERS.unknown("sockets were not listed in time", "run it again"),
    };
    let daemon = seen.status.as_ref().and_then(|status| status["pid"].as_u64());
    let others: Vec<String> = listeners
        .iter()
        .filter(|listener| listener.pid.is_none() || listener.pid != daemon)
        .map(|listener| match listener.pid {
            Some(pid) => format!("process {pid} on {}", listener.address),
            None => format!("a process that cannot be seen on {}", listener.address),
        })
        .collect();
    if let Some(local) = taken(seen) {
        return local;
    }
    let forwards = seen.status.as_ref().is_some_and(|status| status["dataplane"]["in_use"] == "forwarder");
    let may_be =
        |listener: &Listener| listener.pid.is_none() || (listener.pid != daemon && listener.inner == daemon);
    if forwards && listeners.iter().any(may_be) {
        let why = "somebody listens, which may be the daemon or not";
        return LISTENERS.unknown(why, "run apivip audit as root in the host's pid namespace, or ss -ltnp");
    }
    match (others.as_slice(), listeners.is_empty()) {
        ([], true) => LISTENERS.pass("nobody listens there"),
        ([], false) => LISTENERS.pass("apivip's own forwarder, and nobody else"),
        (others, _) => LISTENERS.fail(others.join(", ")),
    }
}

/// A local route that is not the forwarder's ends connections at this node.
fn taken(seen: &Redirect) -> Option<Finding> {
    let bound = seen
        .doctor
        .iter()
        .find(|finding| finding.id == "vip-bound" && finding.verdict >= doctor::Verdict::Warning)?;
    Some(LISTENERS.fail(bound.evidence.as_str()))
}

fn claims(seen: &Redirect) -> Finding {
    let services = match &seen.services {
        Some(Ok(services)) => services,
        Some(Err(error)) => {
            return CLAIMS.unknown(error.as_str(), "the right to list services of all namespaces");
        }
        None => {
            return CLAIMS.unknown("no apiserver could be asked", "give --kubeconfig FILE as for apivip run");
        }
    };
    if seen.vips.is_empty() {
        return CLAIMS.unknown(NO_VIP, GIVE_VIP);
    }
    let ours: BTreeSet<IpAddr> = seen.vips.iter().map(SocketAddr::ip).collect();
    let claims = |service: &&Served| {
        service.claims.iter().any(|claim| claim.parse().is_ok_and(|ip: IpAddr| ours.contains(&ip)))
    };
    let claiming: Vec<&str> = services.iter().filter(claims).map(|service| service.name.as_str()).collect();
    match claiming.as_slice() {
        [] => CLAIMS.pass(format!("none of {} Services", services.len())),
        some => CLAIMS.fail(format!("Service {} claims it", few(some))),
    }
}

fn nonlocal(seen: &Redirect) -> Finding {
    let on: Vec<&str> =
        seen.nonlocal.iter().filter(|(_, value)| *value == Some(true)).map(|(key, _)| *key).collect();
    if !on.is_empty() {
        return NONLOCAL.fail(format!("{} is on", on.join(", ")));
    }
    match seen.nonlocal.first().is_some_and(|(_, value)| value.is_some()) {
        true => NONLOCAL.pass("off: a Pod of the host's network cannot bind the virtual IP either"),
        false => NONLOCAL.unknown("net.ipv4.ip_nonlocal_bind cannot be read", "mount /proc/sys"),
    }
}

fn rp_filter(seen: &Redirect) -> Finding {
    let Some(all) = seen.rp_filter.as_ref().filter(|all| !all.is_empty()) else {
        return RP_FILTER.unknown("net.ipv4.conf.*.rp_filter cannot be read", "mount /proc/sys");
    };
    let off: Vec<&str> = all.iter().filter(|(_, value)| *value == 0).map(|(name, _)| name.as_str()).collect();
    match off.len() {
        0 => RP_FILTER.pass(format!("on for all {} interfaces", all.len())),
        count if count == all.len() => RP_FILTER.fail("off on every interface"),
        _ => RP_FILTER.fail(format!("off on {}", few(&off))),
    }
}

fn route_localnet(seen: &Redirect) -> Finding {
    match seen.settings.route_localnet.as_deref() {
        None => ROUTE_LOCALNET.unknown("net.ipv4.conf.*.route_localnet cannot be read", "mount /proc/sys"),
        Some([]) => ROUTE_LOCALNET.pass("off"),
        Some(some) if seen.guarded => ROUTE_LOCALNET
            .pass(format!("on for {}, and kube-proxy's rules drop what comes from outside", some.join(", "))),
        Some(some) => {
            ROUTE_LOCALNET.fail(format!("on for {}, and no rules of kube-proxy guard it", some.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests;
