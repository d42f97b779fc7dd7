//! `apivip check`: checks a node before and after the installation, and says what prevents apivip from working.
//!
//! In: the arguments of `apivip run`. Out: a [`report::Report`]. `collect` observes and changes nothing outside of a network
//! namespace of its own; the other files are pure and judge. What cannot be observed is `unknown`, never guessed.

pub mod api;
pub mod bypass;
mod collect;
pub mod kernel;
pub mod node;
pub mod other_programs;
pub mod report;

pub use collect::{Observations, Scope, access, observe, within};

use std::net::IpAddr;

use crate::config::{ModeArg, RunArgs, VERSION};
use kernel::Concerns;
use report::Report;

/// Observes and judges everything. Ends within ten seconds, whatever hangs.
pub async fn run(args: &RunArgs) -> Report {
    let observed = observe(args, Scope::All).await;
    let any = |v4: bool| observed.node.vips.iter().any(|vip| vip.is_ipv4() == v4);
    let proxied = other_programs::has_iptables_proxy(&observed.programs);
    let concerns = Concerns {
        ipv4: any(true) || observed.node.vips.is_empty(),
        ipv6: any(false),
        loopback: args.forwarder.listen.iter().any(|at| IpAddr::is_loopback(&at.ip())) && !proxied,
    };
    let mut findings = kernel::capabilities(observed.capabilities);
    findings.extend(kernel::features(&observed.trial, args.forwarder.mode != ModeArg::Nftables));
    findings.extend(kernel::settings(&observed.settings, concerns));
    findings.extend(other_programs::findings(&observed.programs));
    findings.extend(bypass::findings(&observed.bypass));
    findings.extend(api::findings(&observed.api));
    findings.extend(node::findings(&observed.node));
    findings.extend(node::daemon_findings(observed.status.as_ref(), &observed.node.run_dir));
    Report::of_check(VERSION, findings)
}
