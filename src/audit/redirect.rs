//! Verdicts on the virtual IP on this node, and on who might take it over. Pure.
//!
//! In: [`VipRedirect`]. Out: a finding for each check.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::catalogue::AuditCheck;
use super::catalogue::redirect::{
    ANSWER, CLAIMS, LISTENERS, NONLOCAL, ROUTE_LOCALNET, RP_FILTER, SOCKETS, TABLES,
};
use super::control_plane::ServiceSummary;
use crate::check::kernel::KernelSettings;
use crate::check::report::{Finding, Verdict};
use crate::columns::few;

/// What was found on the node.
#[derive(Clone, Debug, Default)]
pub struct VipRedirect {
    /// Virtual IPs and ports.
    pub vips: BTreeSet<SocketAddr>,
    /// The status of the running daemon.
    pub status: Option<Value>,
    /// Findings of `apivip check` about other programs and the virtual IPs.
    pub node_checks: Vec<Finding>,
    /// A kube-proxy's rules guard loopback addresses.
    pub guarded: bool,
    /// How the kernel is set.
    pub settings: KernelSettings,
    /// The effective `rp_filter` of each interface but loopback.
    pub rp_filter: Option<Vec<(String, i64)>>,
    /// `net.ipv4.ip_nonlocal_bind` and that of IPv6, as far as they can be read.
    pub nonlocal: Vec<(&'static str, Option<bool>)>,
    /// Sockets that listen on one of the virtual IPs, with the process, if that is known; or why they cannot be listed.
    pub listeners: Option<Result<Vec<Listener>, String>>,
    /// All Services, or why they cannot be listed.
    pub services: Option<Result<Vec<ServiceSummary>, String>>,
}

/// A socket that listens on a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The process.
    pub pid: Option<u64>,
    /// The same in the pid namespace of its own, as which a daemon in a Pod reports its pid.
    pub inner: Option<u64>,
}

const NO_VIP: &str = "no virtual IP is known";
const GIVE_VIP: &str = "set --vip ADDRESS:PORT, or provide access to the API";

/// All findings.
pub fn findings(observed: &VipRedirect) -> Vec<Finding> {
    let mut all = answers(observed);
    all.push(by_check(observed, &TABLES, "nat-order"));
    all.push(by_check(observed, &SOCKETS, "socket-translation"));
    all.push(listeners(observed));
    all.push(claims(observed));
    all.push(nonlocal(observed));
    all.push(rp_filter(observed));
    all.push(route_localnet(observed));
    all
}

fn answers(observed: &VipRedirect) -> Vec<Finding> {
    let run = "run the daemon, and set --run-dir to its value";
    let Some(status) = &observed.status else { return vec![ANSWER.unknown("no daemon answers", run)] };
    let tests: Vec<&Value> = status["selftests"].as_array().into_iter().flatten().collect();
    if tests.is_empty() {
        let why = "the daemon has not tested the virtual IP";
        return vec![
            ANSWER.unknown(why, "wait some seconds after its start; do not set --selftest-interval off"),
        ];
    }
    let judge = |test: &&Value| {
        let text = |key: &str| test[key].as_str().unwrap_or_default();
        let sentence = text("explanation");
        match (text("answered_by"), test["ready"].as_bool()) {
            ("rules" | "forwarder", Some(true)) => ANSWER.pass(sentence),
            ("rules" | "forwarder", _) => ANSWER.unknown(
                format!("{sentence}, and no API server answers: {}", text("failure")),
                "apivip status",
            ),
            ("" | "unknown" | "other_program_reject", _) => ANSWER.unknown(
                format!("no connection was established: {}", text("failure")),
                "apivip status, apivip check",
            ),
            (_, _) => ANSWER.fail(sentence),
        }
        .about(text("vip"))
    };
    tests.iter().map(judge).collect()
}

/// The verdict of `apivip check` on the same question.
fn by_check(observed: &VipRedirect, check: &AuditCheck, id: &str) -> Finding {
    let Some(found) = observed.node_checks.iter().find(|finding| finding.id == id) else {
        return check.unknown("it was not checked", "run apivip check");
    };
    let fix = found.fix.clone().unwrap_or_else(|| check.setting.to_owned());
    match found.verdict {
        Verdict::Pass | Verdict::Ok | Verdict::Info => check.pass(found.evidence.as_str()),
        Verdict::Unknown => check.unknown(found.evidence.as_str(), fix),
        Verdict::Warning | Verdict::Fail => check.fail(found.evidence.as_str()).with_fix(fix),
    }
}

fn listeners(observed: &VipRedirect) -> Finding {
    if observed.vips.is_empty() {
        return LISTENERS.unknown(NO_VIP, GIVE_VIP);
    }
    let listeners = match &observed.listeners {
        Some(Ok(listeners)) => listeners,
        Some(Err(error)) => return LISTENERS.unknown(error.as_str(), "mount /proc of the host network"),
        None => return LISTENERS.unknown("listing sockets timed out", "run it again"),
    };
    let daemon = observed.status.as_ref().and_then(|status| status["pid"].as_u64());
    let others: Vec<String> = listeners
        .iter()
        .filter(|listener| listener.pid.is_none() || listener.pid != daemon)
        .map(|listener| match listener.pid {
            Some(pid) => format!("process {pid} on {}", listener.address),
            None => format!("a process that is not visible on {}", listener.address),
        })
        .collect();
    if let Some(local) = bound_elsewhere(observed) {
        return local;
    }
    let forwards =
        observed.status.as_ref().is_some_and(|status| status["dataplane"]["in_use"] == "forwarder");
    let may_be =
        |listener: &Listener| listener.pid.is_none() || (listener.pid != daemon && listener.inner == daemon);
    if forwards && listeners.iter().any(may_be) {
        let why = "an unknown process listens, which may be the daemon";
        return LISTENERS
            .unknown(why, "run apivip-audit as root in the pid namespace of the host, or ss -ltnp");
    }
    match (others.as_slice(), listeners.is_empty()) {
        ([], true) => LISTENERS.pass("no process listens there"),
        ([], false) => LISTENERS.pass("only the forwarder of apivip listens there"),
        (others, _) => LISTENERS.fail(others.join(", ")),
    }
}

/// A local route that is not the forwarder's ends connections at this node.
fn bound_elsewhere(observed: &VipRedirect) -> Option<Finding> {
    let bound = observed
        .node_checks
        .iter()
        .find(|finding| finding.id == "vip-bound" && finding.verdict >= Verdict::Warning)?;
    Some(LISTENERS.fail(bound.evidence.as_str()))
}

fn claims(observed: &VipRedirect) -> Finding {
    let services = match &observed.services {
        Some(Ok(services)) => services,
        Some(Err(error)) => {
            return CLAIMS.unknown(error.as_str(), "permission to list Services of all namespaces");
        }
        None => {
            return CLAIMS.unknown("no API server can be queried", "set --kubeconfig FILE as for apivip run");
        }
    };
    if observed.vips.is_empty() {
        return CLAIMS.unknown(NO_VIP, GIVE_VIP);
    }
    let ours: BTreeSet<IpAddr> = observed.vips.iter().map(SocketAddr::ip).collect();
    let claims = |service: &&ServiceSummary| {
        service.claims.iter().any(|claim| claim.parse().is_ok_and(|ip: IpAddr| ours.contains(&ip)))
    };
    let claiming: Vec<&str> = services.iter().filter(claims).map(|service| service.name.as_str()).collect();
    match claiming.as_slice() {
        [] => CLAIMS.pass(format!("none of {} Services", services.len())),
        some => CLAIMS.fail(format!("Service {} claims it", few(some))),
    }
}

fn nonlocal(observed: &VipRedirect) -> Finding {
    let on: Vec<&str> =
        observed.nonlocal.iter().filter(|(_, value)| *value == Some(true)).map(|(key, _)| *key).collect();
    if !on.is_empty() {
        return NONLOCAL.fail(format!("{} is on", on.join(", ")));
    }
    match observed.nonlocal.first().is_some_and(|(_, value)| value.is_some()) {
        true => NONLOCAL.pass("off: Pods in the host network cannot bind the virtual IP either"),
        false => NONLOCAL.unknown("net.ipv4.ip_nonlocal_bind cannot be read", "mount /proc/sys"),
    }
}

fn rp_filter(observed: &VipRedirect) -> Finding {
    let Some(all) = observed.rp_filter.as_ref().filter(|all| !all.is_empty()) else {
        return RP_FILTER.unknown("net.ipv4.conf.*.rp_filter cannot be read", "mount /proc/sys");
    };
    let off: Vec<&str> = all.iter().filter(|(_, value)| *value == 0).map(|(name, _)| name.as_str()).collect();
    match off.len() {
        0 => RP_FILTER.pass(format!("on for all {} interfaces", all.len())),
        count if count == all.len() => RP_FILTER.fail("off on every interface"),
        _ => RP_FILTER.fail(format!("off on {}", few(&off))),
    }
}

fn route_localnet(observed: &VipRedirect) -> Finding {
    match observed.settings.route_localnet.as_deref() {
        None => ROUTE_LOCALNET.unknown("net.ipv4.conf.*.route_localnet cannot be read", "mount /proc/sys"),
        Some([]) => ROUTE_LOCALNET.pass("off"),
        Some(some) if observed.guarded => ROUTE_LOCALNET
            .pass(format!("on for {}, and rules of kube-proxy drop packets from outside", some.join(", "))),
        Some(some) => {
            ROUTE_LOCALNET.fail(format!("on for {}, and no rules of kube-proxy protect it", some.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::report::Verdict::{self, Fail, Pass, Unknown};
    use crate::check::report::{Check, Group};

    const fn asked(id: &'static str) -> Check {
        Check { id, group: Group::OtherPrograms, title: "asked" }
    }

    fn good() -> VipRedirect {
        let test = json!({"vip": "10.96.0.1:443", "ready": true, "answered_by": "rules", "explanation": "its rules"});
        VipRedirect {
            vips: BTreeSet::from(["10.96.0.1:443".parse().unwrap()]),
            status: Some(json!({"pid": 7, "selftests": [test]})),
            node_checks: ["nat-order", "socket-translation", "vip-bound"]
                .map(|id| asked(id).ok("ok"))
                .to_vec(),
            guarded: false,
            rp_filter: Some(vec![("eth0".to_owned(), 2)]),
            settings: KernelSettings { route_localnet: Some(Vec::new()), ..KernelSettings::default() },
            nonlocal: vec![("net.ipv4.ip_nonlocal_bind", Some(false))],
            listeners: Some(Ok(Vec::new())),
            services: Some(Ok(vec![claiming(&["192.0.2.80"])])),
        }
    }

    fn claiming(claims: &[&str]) -> ServiceSummary {
        ServiceSummary {
            name: "a/b".to_owned(),
            https: true,
            claims: claims.iter().map(|&claim| claim.to_owned()).collect(),
        }
    }

    fn of(observed: &VipRedirect, id: &str) -> Verdict {
        findings(observed).iter().find(|finding| finding.id == id).unwrap().verdict
    }

    #[test]
    fn healthy_node_is_ok() {
        for finding in findings(&good()) {
            assert_eq!(finding.verdict, Pass, "{finding:?}");
        }
    }

    #[test]
    fn missing_observations_are_unknown() {
        for finding in findings(&VipRedirect::default()) {
            assert_eq!(finding.verdict, Unknown, "{finding:?}");
        }
        let no = || Some(Err("forbidden".to_owned()));
        let refused = VipRedirect { listeners: no(), services: Some(Err("forbidden".to_owned())), ..good() };
        assert_eq!((of(&refused, "redirect-listeners"), of(&refused, "redirect-claims")), (Unknown, Unknown));
        let silent = VipRedirect { status: Some(json!({"selftests": []})), ..good() };
        assert_eq!(of(&silent, "redirect-answer"), Unknown);
    }

    #[test]
    fn component_that_answers_decides_the_verdict() {
        let by = |who: &str, ready: bool| {
            let test =
                json!({"vip": "10.96.0.1:443", "ready": ready, "answered_by": who, "explanation": "x"});
            of(&VipRedirect { status: Some(json!({"selftests": [test]})), ..good() }, "redirect-answer")
        };
        assert_eq!(
            (by("forwarder", true), by("rules", false), by("unknown", false)),
            (Pass, Unknown, Unknown)
        );
        assert_eq!(by("other_program_reject", false), Unknown, "nobody else takes it");
        for other in ["other_program_dnat", "local_listener", "before_netfilter", "network"] {
            assert_eq!(by(other, true), Fail, "{other}");
        }
        for (id, check) in [("nat-order", "redirect-tables"), ("socket-translation", "redirect-sockets")] {
            let node_checks = vec![asked(id).warning("taken", "nft list ruleset")];
            assert_eq!(of(&VipRedirect { node_checks, ..good() }, check), Fail);
        }
        let listens = |pid| {
            let listener = Listener { address: "10.96.0.1:443".parse().unwrap(), pid, inner: Some(7) };
            of(&VipRedirect { listeners: Some(Ok(vec![listener])), ..good() }, "redirect-listeners")
        };
        assert_eq!((listens(Some(7)), listens(Some(8)), listens(None)), (Pass, Fail, Fail));
        let listener = Listener { address: "10.96.0.1:443".parse().unwrap(), pid: Some(900), inner: Some(7) };
        let forwarding = json!({"pid": 7, "dataplane": {"in_use": "forwarder"}, "selftests": []});
        let observed =
            VipRedirect { listeners: Some(Ok(vec![listener])), status: Some(forwarding), ..good() };
        assert_eq!(of(&observed, "redirect-listeners"), Unknown, "a daemon in a Pod, or somebody else");
        let routed = vec![asked("vip-bound").warning("a local route takes it", "ip route")];
        assert_eq!(of(&VipRedirect { node_checks: routed, ..good() }, "redirect-listeners"), Fail);
        let claimed = Some(Ok(vec![claiming(&["10.96.0.1"])]));
        assert_eq!(of(&VipRedirect { services: claimed, ..good() }, "redirect-claims"), Fail);
    }

    #[test]
    fn each_bad_setting_has_its_verdict() {
        let open = VipRedirect {
            nonlocal: vec![("x", Some(false)), ("net.ipv6.ip_nonlocal_bind", Some(true))],
            ..good()
        };
        assert_eq!(of(&open, "redirect-nonlocal-bind"), Fail);
        let with = |settings: KernelSettings| VipRedirect { settings, ..good() };
        let one = vec![("eth0".to_owned(), 1), ("eth1".to_owned(), 0)];
        assert_eq!(of(&VipRedirect { rp_filter: Some(one), ..good() }, "redirect-rp-filter"), Fail);
        let local = with(KernelSettings { route_localnet: Some(vec!["eth0".to_owned()]), ..good().settings });
        assert_eq!(of(&local, "redirect-route-localnet"), Fail);
        assert_eq!(of(&VipRedirect { guarded: true, ..local }, "redirect-route-localnet"), Pass);
    }
}
