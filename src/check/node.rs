//! Checks of the virtual IPs on this node, of the daemon, of its table and of its saved state. Pure.
//!
//! In: [`NodeState`], and the status of a running daemon: whatever it takes for a problem is at least a warning here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::report::{Check, Finding, Group};
use crate::columns::few;
use crate::model::desired::{NodeView, PreferredSource, SourceAddress};
use crate::model::types::ServiceKey;
use crate::model::verdict::Severity;
use crate::nftables::inventory::RulesetInventory;
use crate::nftables::table::TABLE_NAME;
use crate::status::Status;

/// What was observed on the node.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// `--run-dir`.
    pub run_dir: PathBuf,
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// The Service.
    pub service: ServiceKey,
    /// Virtual IPs, from arguments, saved state, a running daemon or the API.
    pub vips: BTreeSet<SocketAddr>,
    /// Apiservers that are known.
    pub backends: BTreeSet<IpAddr>,
    /// Addresses and routes, or why they cannot be read.
    pub routes: Option<Result<NodeView, String>>,
    /// `--masquerade never`.
    pub never_masquerade: bool,
    /// What a daemon says of itself; `Ok(None)`: none listens; an error: one is there, and does not answer.
    pub daemon: Option<Result<Option<DaemonSummary>, String>>,
    /// What is in nf_tables.
    pub rules: Option<Result<RulesetInventory, String>>,
    /// `--table-owner off`: the daemon's table has no owner flag.
    pub plain: bool,
    /// Whether the last good state is there and can be used.
    pub state: Option<Result<bool, String>>,
}

/// A running daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSummary {
    /// Its process.
    pub pid: u64,
    /// Its phase.
    pub phase: String,
    /// One sentence about it.
    pub summary: String,
    /// The dataplane in use: `nftables`, `forwarder` or `none`.
    pub in_use: String,
    /// The proxy is in use because nftables cannot be used, not because the operator chose it.
    pub fallback_active: bool,
}

const fn vip(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::VirtualIp, title }
}

const fn own(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Apivip, title }
}

const KNOWN: Check = vip("virtual-ip", "known virtual IPs");
const ROUTE: Check = vip("vip-route", "route of the node to the virtual IP");
const SOURCE: Check = vip("vip-source", "source address of connections of the node itself");
const BOUND: Check = vip("vip-bound", "other users of the virtual IP on this node");
const DAEMON: Check = own("daemon", "running daemon");
const TABLE: Check = own("table", "table inet apivip");
const SAVE: Check = own("ruleset-save", "nft list ruleset and nft -f");
const STATE: Check = own("saved-state", "saved state");

/// All findings.
pub fn findings(observed: &NodeState) -> Vec<Finding> {
    let mut all = virtual_ips(observed);
    all.push(daemon(observed));
    all.extend(table(observed));
    all.push(state(observed));
    all
}

fn virtual_ips(observed: &NodeState) -> Vec<Finding> {
    if observed.vips.is_empty() {
        let ServiceKey { namespace, name } = &observed.service;
        return vec![KNOWN.unknown(
            "unknown: no source names it yet",
            format!("kubectl get service -n {namespace} {name}: set --vip to its ClusterIP and port"),
        )];
    }
    let vips: Vec<String> = observed.vips.iter().map(SocketAddr::to_string).collect();
    let mut all = vec![KNOWN.ok(few(&vips))];
    let view = match &observed.routes {
        Some(Ok(view)) => view,
        Some(Err(error)) => {
            all.push(ROUTE.unknown(error.as_str(), route_command(observed)));
            return all;
        }
        None => {
            all.push(ROUTE.unknown("reading the routes timed out", route_command(observed)));
            return all;
        }
    };
    let forwards = matches!(&observed.daemon, Some(Ok(Some(daemon))) if daemon.in_use == "forwarder");
    let addresses: BTreeSet<IpAddr> = observed.vips.iter().map(SocketAddr::ip).collect();
    for ip in addresses {
        let route = view.preferred.get(&ip);
        let taken = view.taken_vips.contains(&ip);
        all.push(
            match route {
                None => ROUTE.info("no route exists: the daemon adds one"),
                Some(PreferredSource::Local) if taken => ROUTE.ok("it is an address of this node"),
                Some(PreferredSource::Local) => ROUTE.ok("a local route points to this node"),
                Some(PreferredSource::Address(source)) => {
                    ROUTE.ok(format!("with the source address {}", source.address))
                }
            }
            .about(ip),
        );
        all.push(
            match (taken, route) {
                (true, _) => BOUND.info(
                    "an interface has the address, as in the IPVS mode of kube-proxy: apivip redirects it anyway",
                ),
                (false, Some(PreferredSource::Local)) if !forwards => BOUND.warning(
                    "a local route that does not belong to the forwarder has the address: connections end on this node",
                    format!("ip route del local {ip} table local"),
                ),
                _ => BOUND.ok("no interface has the address"),
            }
            .about(ip),
        );
        all.extend(source(observed, view, ip, route));
    }
    all
}

fn route_command(observed: &NodeState) -> String {
    let vip = observed.vips.first().map_or_else(String::new, |vip| vip.ip().to_string());
    format!("ip route get {vip}")
}

/// The kernel chooses the source for the route to the virtual IP, before the destination is translated.
fn source(
    observed: &NodeState,
    view: &NodeView,
    ip: IpAddr,
    route: Option<&PreferredSource>,
) -> Option<Finding> {
    let Some(PreferredSource::Address(SourceAddress { address: chosen, .. })) = route else { return None };
    let backends: Vec<&IpAddr> = observed.backends.iter().filter(|b| b.is_ipv4() == ip.is_ipv4()).collect();
    if backends.is_empty() {
        return Some(
            SOURCE
                .unknown("no API server of its IP family is known", endpoints_command(&observed.service))
                .about(ip),
        );
    }
    let mut other: BTreeMap<IpAddr, (String, bool)> = BTreeMap::new();
    let mut unreachable = Vec::new();
    for backend in backends {
        match view.preferred.get(backend) {
            Some(PreferredSource::Address(source)) if source.address != *chosen => {
                other.insert(source.address, (backend.to_string(), source.certain || source.named));
            }
            None => unreachable.push(backend.to_string()),
            _ => {}
        }
    }
    let finding = if !unreachable.is_empty() {
        SOURCE.fail(
            format!("there is no route to {}", few(&unreachable)),
            format!("ip route get {}, then ip route add as your network requires", unreachable[0]),
        )
    } else if let Some((source, (backend, certain))) = other.iter().next() {
        let text = format!("the kernel selects {chosen}, but {source} is correct for {backend}");
        if observed.never_masquerade {
            SOURCE.warning(format!("{text}: replies may not return"), "apivip run --masquerade auto")
        } else if *certain {
            SOURCE.info(format!("{text}: the nftables table corrects it"))
        } else {
            SOURCE.info(format!(
                "{text}; routing rules depend on more than the destination, so the table keeps an address that matches \
                 the outgoing interface"
            ))
        }
    } else {
        SOURCE.ok(format!("{chosen} is correct for every API server"))
    };
    Some(finding.about(ip))
}

/// Shows the apiservers that the API publishes.
pub(super) fn endpoints_command(service: &ServiceKey) -> String {
    let ServiceKey { namespace, name } = service;
    format!(
        "kubectl get endpointslice -n {namespace} -l kubernetes.io/service-name={name}: set --seed to an endpoint with its port"
    )
}

fn daemon(observed: &NodeState) -> Finding {
    let status = format!("apivip status --run-dir {}", observed.run_dir.display());
    match &observed.daemon {
        None => DAEMON.unknown("the query of its socket timed out", format!("sudo {status}")),
        Some(Ok(None)) => DAEMON.info("no daemon runs with this --run-dir"),
        Some(Err(error)) => DAEMON.unknown(error.as_str(), format!("sudo {status}")),
        Some(Ok(Some(daemon))) => {
            let text = format!("pid {}, {}: {}", daemon.pid, daemon.phase, daemon.summary);
            match daemon.phase.as_str() {
                "programmed" => DAEMON.ok(text),
                "forwarding" if !daemon.fallback_active => {
                    DAEMON.ok(format!("{text}, as --mode forwarder requires"))
                }
                "failed" => DAEMON.fail(text, status),
                _ => DAEMON.warning(text, status),
            }
        }
    }
}

fn table(observed: &NodeState) -> Vec<Finding> {
    let survey = match &observed.rules {
        Some(Ok(survey)) => survey,
        other => {
            let why = match other {
                Some(Err(error)) => error.as_str(),
                _ => "nf_tables did not answer in time",
            };
            return vec![TABLE.unknown(why, "sudo apivip check: it needs CAP_NET_ADMIN")];
        }
    };
    let runs = matches!(&observed.daemon, Some(Ok(Some(_))));
    let rules_in_use = matches!(&observed.daemon, Some(Ok(Some(daemon))) if daemon.in_use == "nftables");
    let found = survey.tables.iter().find(|table| table.family == "inet" && table.name == TABLE_NAME);
    let Some(found) = found else {
        let missing = "it does not exist";
        return vec![match rules_in_use {
            true => TABLE.fail(
                format!("{missing}, although a daemon reports that it programmed the table"),
                format!(
                    "apivip status --run-dir {} names the program that removes it",
                    observed.run_dir.display()
                ),
            ),
            false => TABLE.ok(missing),
        }];
    };
    let ownership = match (found.owner, runs) {
        (Some(owner), true) => TABLE.ok(format!("netlink port {owner} owns it; a daemon runs")),
        (Some(owner), false) => TABLE.fail(
            format!(
                "netlink port {owner} (often a pid) owns it, and no daemon answers in this --run-dir"
            ),
            format!(
                "ps -fp {owner}: set --run-dir to its directory, or stop it: another apivip run cannot change the table"
            ),
        ),
        (None, true) if found.persists && rules_in_use && !observed.plain => TABLE
            .warning("no process owns it, although a daemon runs", "systemctl restart apivip, or delete its Pod"),
        (None, true) => TABLE.ok("no process owns it, and a daemon maintains it"),
        (None, false) => TABLE.info(
            "an earlier daemon left it, and it keeps working; the next daemon adopts it, and apivip cleanup removes it",
        ),
    };
    let save = match (found.owner, found.persists) {
        (Some(_), _) => SAVE
            .info("while the daemon owns the table, the output of nft list ruleset cannot be loaded: nft -f fails as a whole")
            .with_fix("apivip run --table-owner off, or exclude table inet apivip when you save the rules"),
        (None, true) => SAVE.info("nft 1.0.6 prints the flags of a table without an owner as an empty word, which it cannot load"),
        (None, false) => SAVE.ok("the table can be saved and loaded like any other"),
    };
    vec![ownership, save]
}

fn state(observed: &NodeState) -> Finding {
    match &observed.state {
        None => STATE.unknown("reading it timed out", format!("ls -l {}", observed.state_dir.display())),
        Some(Ok(true)) => STATE.ok("it exists, for starts without an API server"),
        Some(Ok(false)) => STATE
            .info("none exists yet: the first start requires the API, or --seed and --vip or --service-cidr"),
        Some(Err(error)) => STATE.warning(
            error.as_str(),
            "journalctl -u apivip: the daemon continues without it and writes it again; find the cause if this recurs",
        ),
    }
}

const SELF_TEST: Check = Check { id: "self-test", group: Group::Apivip, title: "self-test of the daemon" };
const PROBLEMS: Check =
    Check { id: "daemon-problems", group: Group::Apivip, title: "problems in the status of the daemon" };

/// All findings; none without a daemon that answers. `status`: the document of its admin interface.
pub fn daemon_findings(status: Option<&Value>, run_dir: &Path) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let ask = format!("apivip status --run-dir {}", run_dir.display());
    let Ok(status) = serde_json::from_value::<Status>(status.clone()) else {
        return vec![PROBLEMS.unknown("its status cannot be read; does it have another version?", ask)];
    };
    let mut all: Vec<Finding> = status
        .selftests
        .iter()
        .map(|test| {
            let observed = test.explanation.as_deref().unwrap_or_default();
            let finding = match (test.ready, test.is_ours()) {
                (false, _) => SELF_TEST
                    .fail(test.result(), format!("{ask} shows since when, and which API servers are healthy")),
                (true, false) => SELF_TEST.fail(
                    format!("{}; {observed}", test.result()),
                    format!(
                        "{ask}: remove the virtual IP from the named component, or leave it to that component and stop apivip"
                    ),
                ),
                (true, true) if test.failure.is_some() => {
                    SELF_TEST.warning(test.result(), format!("{ask} shows whether the next one fails too"))
                }
                (true, true) => SELF_TEST.ok(test.result()),
            };
            finding.about(test.vip)
        })
        .collect();
    let repeated = |problem: &str| {
        problem == status.summary || status.selftests.iter().any(|test| problem.contains(&test.result()))
    };
    let problems: Vec<Finding> = status
        .problems
        .iter()
        .filter(|problem| !repeated(&problem.message))
        .map(|problem| {
            let fix = format!("{ask}; {}", problem.action);
            match problem.severity {
                Severity::Critical => PROBLEMS.fail(problem.message.as_str(), fix),
                Severity::Warning => PROBLEMS.warning(problem.message.as_str(), fix),
            }
        })
        .collect();
    if problems.is_empty() {
        all.push(PROBLEMS.ok("none other than the findings above"));
    }
    all.extend(problems);
    all
}

#[cfg(test)]
mod tests;
