//! Verdicts on the virtual IPs on this node, and on what there is of apivip. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::finding::{Check, Finding, Group};
use crate::columns::few;
use crate::model::desired::{NodeView, PreferredSource, SourceAddress};
use crate::model::types::ServiceKey;
use crate::nftables::survey::Survey;
use crate::nftables::table::TABLE_NAME;

/// What was found on the node.
#[derive(Clone, Debug, Default)]
pub struct Here {
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
    pub daemon: Option<Result<Option<Daemon>, String>>,
    /// What is in nf_tables.
    pub rules: Option<Result<Survey, String>>,
    /// `--table-owner off`: the daemon's table is to be nobody's.
    pub plain: bool,
    /// Whether the last good state is there and can be used.
    pub state: Option<Result<bool, String>>,
}

/// A running daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Its process.
    pub pid: u64,
    /// Its phase.
    pub phase: String,
    /// One sentence about it.
    pub summary: String,
    /// How connections are led.
    pub in_use: String,
    /// The forwarder is in use, and nobody chose it.
    pub stands_in: bool,
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
pub fn here(seen: &Here) -> Vec<Finding> {
    let mut all = virtual_ips(seen);
    all.push(daemon(seen));
    all.extend(table(seen));
    all.push(state(seen));
    all
}

fn virtual_ips(seen: &Here) -> Vec<Finding> {
    if seen.vips.is_empty() {
        let ServiceKey { namespace, name } = &seen.service;
        return vec![KNOWN.unknown(
            "nothing names it yet",
            format!("kubectl get service -n {namespace} {name}: its ClusterIP and port are what --vip takes"),
        )];
    }
    let vips: Vec<String> = seen.vips.iter().map(SocketAddr::to_string).collect();
    let mut all = vec![KNOWN.ok(few(&vips))];
    let view = match &seen.routes {
        Some(Ok(view)) => view,
        Some(Err(error)) => {
            all.push(ROUTE.unknown(error.as_str(), way(seen)));
            return all;
        }
        None => {
            all.push(ROUTE.unknown("the kernel's routes were not read in time", way(seen)));
            return all;
        }
    };
    let forwards = matches!(&seen.daemon, Some(Ok(Some(daemon))) if daemon.in_use == "forwarder");
    let addresses: BTreeSet<IpAddr> = seen.vips.iter().map(SocketAddr::ip).collect();
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
        all.extend(source(seen, view, ip, route));
    }
    all
}

fn way(seen: &Here) -> String {
    let vip = seen.vips.first().map_or_else(String::new, |vip| vip.ip().to_string());
    format!("ip route get {vip}")
}

/// The kernel chooses the source for the route to the virtual IP, before the destination is translated.
fn source(seen: &Here, view: &NodeView, ip: IpAddr, route: Option<&PreferredSource>) -> Option<Finding> {
    let Some(PreferredSource::Address(SourceAddress { address: chosen, .. })) = route else { return None };
    let backends: Vec<&IpAddr> = seen.backends.iter().filter(|b| b.is_ipv4() == ip.is_ipv4()).collect();
    if backends.is_empty() {
        return Some(
            SOURCE.unknown("no apiserver of its family is known", published(&seen.service)).about(ip),
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
        if seen.never_masquerade {
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
pub(super) fn published(service: &ServiceKey) -> String {
    let ServiceKey { namespace, name } = service;
    format!(
        "kubectl get endpointslice -n {namespace} -l kubernetes.io/service-name={name}: an endpoint with its port is what --seed takes"
    )
}

fn daemon(seen: &Here) -> Finding {
    let status = format!("apivip status --run-dir {}", seen.run_dir.display());
    match &seen.daemon {
        None => DAEMON.unknown("its socket was not asked in time", format!("sudo {status}")),
        Some(Ok(None)) => DAEMON.info("none runs with this --run-dir"),
        Some(Err(error)) => DAEMON.unknown(error.as_str(), format!("sudo {status}")),
        Some(Ok(Some(daemon))) => {
            let text = format!("pid {}, {}: {}", daemon.pid, daemon.phase, daemon.summary);
            match daemon.phase.as_str() {
                "programmed" => DAEMON.ok(text),
                "forwarding" if !daemon.stands_in => DAEMON.ok(format!("{text}, as --mode forwarder says")),
                "failed" => DAEMON.fail(text, status),
                _ => DAEMON.warning(text, status),
            }
        }
    }
}

fn table(seen: &Here) -> Vec<Finding> {
    let survey = match &seen.rules {
        Some(Ok(survey)) => survey,
        other => {
            let why = match other {
                Some(Err(error)) => error.as_str(),
                _ => "nf_tables did not answer in time",
            };
            return vec![TABLE.unknown(why, "sudo apivip check: it needs CAP_NET_ADMIN")];
        }
    };
    let runs = matches!(&seen.daemon, Some(Ok(Some(_))));
    let rules_in_use = matches!(&seen.daemon, Some(Ok(Some(daemon))) if daemon.in_use == "nftables");
    let found = survey.tables.iter().find(|table| table.family == "inet" && table.name == TABLE_NAME);
    let Some(found) = found else {
        let missing = "it is not there";
        return vec![match rules_in_use {
            true => TABLE.fail(
                format!("{missing}, though a daemon says that it programmed it"),
                format!("apivip status --run-dir {} names who takes it away", seen.run_dir.display()),
            ),
            false => TABLE.ok(missing),
        }];
    };
    let whose = match (found.owner, runs) {
        (Some(owner), true) => TABLE.ok(format!("it belongs to netlink port {owner}; a daemon runs")),
        (Some(owner), false) => TABLE.fail(
            format!(
                "it belongs to netlink port {owner} (often a pid), and no daemon answers in this --run-dir"
            ),
            format!(
                "ps -fp {owner}: give its --run-dir, or stop it: another apivip run cannot change the table"
            ),
        ),
        (None, true) if found.persists && rules_in_use && !seen.plain => TABLE
            .warning("it is an orphan, though a daemon runs", "systemctl restart apivip, or delete its Pod"),
        (None, true) => TABLE.ok("it is nobody's, and a daemon looks after it"),
        (None, false) => TABLE.info(
            "an earlier daemon left it, and it works on; the next one takes it in, apivip cleanup removes it",
        ),
    };
    let save = match (found.owner, found.persists) {
        (Some(_), _) => SAVE
            .info("while the daemon owns the table, what nft list ruleset prints cannot be loaded: nft -f fails as a whole")
            .mended_by("apivip run --table-owner off, or leave table inet apivip out of what is saved"),
        (None, true) => SAVE.info("nft 1.0.6 prints the flags of an orphan as an empty word, which it cannot read back"),
        (None, false) => SAVE.ok("the table is saved and loaded like any other"),
    };
    vec![whose, save]
}

fn state(seen: &Here) -> Finding {
    match &seen.state {
        None => STATE.unknown("it was not read in time", format!("ls -l {}", seen.state_dir.display())),
        Some(Ok(true)) => STATE.ok("there is one, for starts without an apiserver"),
        Some(Ok(false)) => STATE
            .info("there is none yet: a first start needs the API, or --seed and --vip or --service-cidr"),
        Some(Err(error)) => STATE.warning(
            error.as_str(),
            "journalctl -u apivip: the daemon goes on without it and writes it anew; see why if it comes back",
        ),
    }
}

#[cfg(test)]
mod tests;
