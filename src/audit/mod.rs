//! `apivip-audit`: is every connection path between this cluster's control plane and this node safe on an untrusted network?
//!
//! In: the arguments of `apivip run`, and where the kubelet is. Out: a [`Report`]. `collect` asks this node's kubelet and the
//! apiservers that the daemon knows, reads what the node has, and changes nothing; the files that judge are pure. What cannot
//! be observed is unknown, never guessed.

pub mod apiserver;
pub mod catalogue;
pub mod certificate;
pub mod client_hello;
mod collect;
pub mod control_plane;
pub mod flags;
pub mod http;
pub mod kubelet;
pub mod kubelet_config;
pub mod redirect;
pub mod report;
pub mod tls;
pub mod token;

use crate::check::report::{Finding, Report};
use crate::config::{AuditArgs, VERSION};

/// Observes and judges everything. Ends within three quarters of a minute, whatever hangs.
pub async fn run(args: &AuditArgs) -> Report {
    let observed = collect::observe(args).await;
    let mut findings: Vec<Finding> = observed
        .tls_probes
        .iter()
        .flat_map(|probe| apiserver::tls_findings(probe, &observed.names, observed.now))
        .collect();
    findings.extend(observed.access_probes.iter().flat_map(apiserver::access_findings));
    if observed.tls_probes.is_empty() {
        findings.extend(without_address());
    }
    let (subjects, public) = &observed.trusted;
    findings.push(apiserver::trusted(subjects, public.as_deref()));
    let opaque = observed.token.as_deref().map(|token| token::claims(token).is_none());
    findings.push(apiserver::static_tokens(&observed.control_plane, opaque));
    findings.extend(token::findings(observed.token.as_deref(), observed.now));
    findings.extend(control_plane::findings(&observed.control_plane));
    findings.extend(kubelet::findings(&observed.kubelet, observed.now));
    findings.extend(redirect::findings(&observed.redirect));
    report::report(VERSION, findings)
}

/// The findings about addresses, where none is known.
fn without_address() -> impl Iterator<Item = Finding> {
    use catalogue::{apiserver as tls, requests as access};
    let checks = [
        &tls::ISSUER,
        &tls::NAMES,
        &tls::EXPIRY,
        &tls::VERSION,
        &tls::CIPHERS,
        &tls::FOREIGN,
        &access::ANONYMOUS_DISCOVERY,
        &access::ANONYMOUS_OBJECTS,
        &access::BASIC,
        &access::PLAIN_HTTP,
        &access::CREDENTIALS,
        &access::DAMAGED_TOKEN,
    ];
    checks.into_iter().map(|check| {
        check.unknown(
            "no API server is known: no kubeconfig, seed, saved state or running daemon names one",
            "set --kubeconfig as for apivip run, or --seed ADDRESS:PORT",
        )
    })
}
