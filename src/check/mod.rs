//! `apivip check`: looks at a node before and after installing, and says what stands in the way.
//!
//! In: the arguments of `apivip run`. Out: a [`finding::Report`]. `collect` looks and changes nothing outside of a
//! network namespace of its own; every other file is pure and draws the conclusions. What could not be seen is
//! `unknown`, never guessed.

pub mod api;
pub mod bypass;
mod collect;
pub mod finding;
pub mod kernel;
#[cfg(test)]
mod mends;
pub mod neighbours;
pub mod node;
mod reading;
mod running;
pub mod settings;
pub mod text;

pub use collect::{Scope, Seen, within};

use std::net::IpAddr;
use std::path::Path;

use crate::config::{ModeArg, RunArgs, TableOwnerArg, VERSION};
use crate::transport::Access;
use finding::Report;
use settings::Concerns;

/// Asks the daemon of a run folder for its status, as JSON.
pub type AskDaemon = fn(&Path) -> anyhow::Result<String>;

/// Looks at everything and judges it. Ends within ten seconds, whatever hangs.
pub async fn run(args: &RunArgs, ask: AskDaemon) -> Report {
    let seen = look(args, ask, Scope::All).await;
    let any = |v4: bool| seen.here.vips.iter().any(|vip| vip.is_ipv4() == v4);
    let proxied = neighbours::has_iptables_proxy(&seen.traces);
    let concerns = Concerns {
        ipv4: any(true) || seen.here.vips.is_empty(),
        ipv6: any(false),
        loopback: args.forwarder.listen.iter().any(|at| IpAddr::is_loopback(&at.ip())) && !proxied,
    };
    let mut findings = kernel::capabilities(seen.capabilities);
    findings.extend(kernel::features(&seen.trial, args.forwarder.mode != ModeArg::Nftables));
    findings.extend(settings::settings(&seen.settings, concerns));
    findings.extend(neighbours::neighbours(&seen.traces));
    findings.extend(bypass::bypass_ways(&seen.ways));
    findings.extend(api::findings(&seen.api));
    findings.extend(node::here(&seen.here));
    findings.extend(running::running(seen.status.as_ref(), &seen.here.run_dir));
    Report::new(VERSION, findings)
}

/// Looks, for whoever judges by other questions. Ends within ten seconds.
pub async fn look(args: &RunArgs, ask: AskDaemon, scope: Scope) -> Seen {
    collect::collect(args, ask, scope).await
}

/// The access to the API that the daemon has, or why it has none; `None`: none is configured.
pub async fn access(args: &RunArgs) -> Option<Result<Access, String>> {
    collect::load(args).await
}

/// Whether the daemon's table is to be nobody's.
fn is_plain(args: &RunArgs) -> bool {
    args.table_owner == TableOwnerArg::Off
}
