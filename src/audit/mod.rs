//! `apivip audit`: is every path between this cluster's control plane and this node safe on an untrusted network?
//!
//! In: the arguments of `apivip run`, and where the kubelet is. Out: a [`finding::Report`]. `collect` asks this node's
//! kubelet and the apiservers that the daemon knows, reads what the node has, and changes nothing; the files that judge are
//! pure. What could not be seen is unknown, never guessed.

pub mod apiserver;
pub mod ask;
pub mod catalogue;
pub mod certificate;
mod collect;
pub mod control;
pub mod finding;
pub mod flags;
pub mod hello;
pub mod kubelet;
pub mod look;
pub mod redirect;
pub mod requests;
pub mod sarif;
pub mod started;
pub mod text;
pub mod token;
pub mod who;

use crate::check::AskDaemon;
use crate::config::{AuditArgs, VERSION};
use finding::{Finding, Report};

/// Looks at everything and judges it. Ends within three quarters of a minute, whatever hangs.
pub async fn run(args: &AuditArgs, ask: AskDaemon) -> Report {
    let seen = collect::collect(args, ask).await;
    let mut findings: Vec<Finding> =
        seen.faces.iter().flat_map(|face| apiserver::findings(face, &seen.names, seen.now)).collect();
    findings.extend(seen.doors.iter().flat_map(requests::findings));
    if seen.faces.is_empty() {
        findings.extend(nowhere());
    }
    let (subjects, public) = &seen.trusted;
    findings.push(apiserver::trusted(subjects, public.as_deref()));
    let opaque = seen.token.as_deref().map(|token| token::claims(token).is_none());
    findings.push(requests::static_tokens(&seen.control, opaque));
    findings.extend(token::findings(seen.token.as_deref(), seen.now));
    findings.extend(control::findings(&seen.control));
    findings.extend(kubelet::findings(&seen.kubelet, seen.now));
    findings.extend(redirect::findings(&seen.redirect));
    Report::new(VERSION, findings)
}

/// What is said of addresses, where none is known.
fn nowhere() -> impl Iterator<Item = Finding> {
    use catalogue::{apiserver as shown, requests as asked};
    let checks = [
        &shown::ISSUER,
        &shown::NAMES,
        &shown::EXPIRY,
        &shown::VERSION,
        &shown::CIPHERS,
        &shown::FOREIGN,
        &asked::ANONYMOUS_DISCOVERY,
        &asked::ANONYMOUS_OBJECTS,
        &asked::BASIC,
        &asked::PLAIN_HTTP,
        &asked::CREDENTIALS,
        &asked::DAMAGED_TOKEN,
    ];
    checks.into_iter().map(|check| {
        check.unknown(
            "no address of the API is known: no kubeconfig, seed, saved state or running daemon names one",
            "give --kubeconfig as for apivip run, or --seed ADDRESS:PORT",
        )
    })
}
