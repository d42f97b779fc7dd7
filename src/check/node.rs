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

const KNOWN: Check = vip("virtual-ip", "the virtual IP is known");
const ROUTE: Check = vip("vip-route", "the node has a way to it");
const SOURCE: Check = vip("vip-source", "source address of the node's own connections");
const BOUND: Check = vip("vip-bound", "nobody has bound it");
const DAEMON: Check = own("daemon", "a daemon runs");
const TABLE: Check = own("table", "table inet apivip");
const SAVE: Check = own("ruleset-save", "nft list ruleset and nft -f");
const STATE: Check = own("saved-state", "the last good state");

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
            "nothing names it yet",
            format!("kubectl get service -n {namespace} {name}: its ClusterIP and port are what --vip takes"),
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
            all.push(ROUTE.unknown("the kernel's routes were not read in time", route_command(observed)));
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
                None => ROUTE.info("no route to it: the daemon adds one"),
                Some(PreferredSource::Local) if taken => ROUTE.ok("it is an address of this node"),
                Some(PreferredSource::Local) => ROUTE.ok("a local route leads to this node"),
                Some(PreferredSource::Address(source)) => {
                    ROUTE.ok(format!("with the source address {}", source.address))
                }
            }
            .about(ip),
        );
        all.push(
            match (taken, route) {
                (true, _) => BOUND.info(
                    "an interface has it, as kube-proxy's IPVS mode does: it is redirected all the same",
                ),
                (false, Some(PreferredSource::Local)) if !forwards => BOUND.warning(
                    "a local route that is not the forwarder's takes it: connections end at this node",
                    format!("ip route del local {ip} table local"),
                ),
                _ => BOUND.ok("no interface has it"),
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
                .unknown("no apiserver of its family is known", endpoints_command(&observed.service))
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
            format!("ip route get {}, then ip route add as your network needs it", unreachable[0]),
        )
    } else if let Some((source, (backend, certain))) = other.iter().next() {
        let text = format!("{chosen} is chosen, and {source} is right towards {backend}");
        if observed.never_masquerade {
            SOURCE.warning(format!("{text}: answers may not come back"), "apivip run --masquerade auto")
        } else if *certain {
            SOURCE.info(format!("{text}: the table corrects it"))
        } else {
            SOURCE.info(format!(
                "{text}; routing rules choose by more than the destination, so the table keeps an address that fits \
                 the interface by which a packet leaves"
            ))
        }
    } else {
        SOURCE.ok(format!("{chosen} is right towards every apiserver"))
    };
    Some(finding.about(ip))
}

/// Shows the apiservers that the API publishes.
pub(super) fn endpoints_command(service: &ServiceKey) -> String {
    let ServiceKey { namespace, name } = service;
    format!(
        "kubectl get endpointslice -n {namespace} -l kubernetes.io/service-name={name}: an endpoint with its port is what --seed takes"
    )
}

fn daemon(observed: &NodeState) -> Finding {
    let status = format!("apivip status --run-dir {}", observed.run_dir.display());
    match &observed.daemon {
        None => DAEMON.unknown("its socket was not asked in time", format!("sudo {status}")),
        Some(Ok(None)) => DAEMON.info("none runs with this --run-dir"),
        Some(Err(error)) => DAEMON.unknown(error.as_str(), format!("sudo {status}")),
        Some(Ok(Some(daemon))) => {
            let text = format!("pid {}, {}: {}", daemon.pid, daemon.phase, daemon.summary);
            match daemon.phase.as_str() {
                "programmed" => DAEMON.ok(text),
                "forwarding" if !daemon.fallback_active => {
                    DAEMON.ok(format!("{text}, as --mode forwarder says"))
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
        let missing = "it is not there";
        return vec![match rules_in_use {
            true => TABLE.fail(
                format!("{missing}, though a daemon says that it programmed it"),
                format!("apivip status --run-dir {} names who takes it away", observed.run_dir.display()),
            ),
            false => TABLE.ok(missing),
        }];
    };
    let ownership = match (found.owner, runs) {
        (Some(owner), true) => TABLE.ok(format!("it belongs to netlink port {owner}; a daemon runs")),
        (Some(owner), false) => TABLE.fail(
            format!(
                "it belongs to netlink port {owner} (often a pid), and no daemon answers in this --run-dir"
            ),
            format!(
                "ps -fp {owner}: give its --run-dir, or stop it: another apivip run cannot change the table"
            ),
        ),
        (None, true) if found.persists && rules_in_use && !observed.plain => TABLE
            .warning("it is an orphan, though a daemon runs", "systemctl restart apivip, or delete its Pod"),
        (None, true) => TABLE.ok("it is nobody's, and a daemon looks after it"),
        (None, false) => TABLE.info(
            "an earlier daemon left it, and it works on; the next one takes it in, apivip cleanup removes it",
        ),
    };
    let save = match (found.owner, found.persists) {
        (Some(_), _) => SAVE
            .info("while the daemon owns the table, what nft list ruleset prints cannot be loaded: nft -f fails as a whole")
            .with_fix("apivip run --table-owner off, or leave table inet apivip out of what is saved"),
        (None, true) => SAVE.info("nft 1.0.6 prints the flags of an orphan as an empty word, which it cannot read back"),
        (None, false) => SAVE.ok("the table is saved and loaded like any other"),
    };
    vec![ownership, save]
}

fn state(observed: &NodeState) -> Finding {
    match &observed.state {
        None => STATE.unknown("it was not read in time", format!("ls -l {}", observed.state_dir.display())),
        Some(Ok(true)) => STATE.ok("there is one, for starts without an apiserver"),
        Some(Ok(false)) => STATE
            .info("there is none yet: a first start needs the API, or --seed and --vip or --service-cidr"),
        Some(Err(error)) => STATE.warning(
            error.as_str(),
            "journalctl -u apivip: the daemon goes on without it and writes it anew; see why if it comes back",
        ),
    }
}

const SELF_TEST: Check =
    Check { id: "self-test", group: Group::Apivip, title: "the daemon's own connections to the virtual IP" };
const PROBLEMS: Check =
    Check { id: "daemon-problems", group: Group::Apivip, title: "what the daemon's status complains of" };

/// All findings; none without a daemon that answers. `status`: the document of its admin interface.
pub fn daemon_findings(status: Option<&Value>, run_dir: &Path) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let ask = format!("apivip status --run-dir {}", run_dir.display());
    let Ok(status) = serde_json::from_value::<Status>(status.clone()) else {
        return vec![PROBLEMS.unknown("its status cannot be read; is it of another version?", ask)];
    };
    let mut all: Vec<Finding> = status
        .selftests
        .iter()
        .map(|test| {
            let observed = test.explanation.as_deref().unwrap_or_default();
            let finding = match (test.ready, test.is_ours()) {
                (false, _) => SELF_TEST
                    .fail(test.result(), format!("{ask} says since when, and which apiservers are up")),
                (true, false) => SELF_TEST.fail(
                    format!("{}; {observed}", test.result()),
                    format!(
                        "{ask}: take the virtual IP out of what is named, or leave it to that and stop apivip"
                    ),
                ),
                (true, true) if test.failure.is_some() => {
                    SELF_TEST.warning(test.result(), format!("{ask} tells whether the next one fails, too"))
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
        all.push(PROBLEMS.ok("none besides what stands above"));
    }
    all.extend(problems);
    all
}

#[cfg(test)]
mod tests;
