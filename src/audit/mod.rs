//! `apivip audit`: is every path between this cluster's control plane and this node safe on an untrusted network?
//!
//! In: the arguments of `apivip run`, and where the kubelet is. Out: a [`finding::Report`]. `collect` asks this node's
//! kubelet and the apiservers that the daemon knows, reads what the node has, and changes nothing; the files that judge are
//! pure. What could not be seen is unknown, never guessed.

pub mod ask;
pub mod catalogue;
pub mod certificate;
mod collect;
pub mod finding;
pub mod flags;
pub mod hello;
pub mod kubelet;
pub mod look;
pub mod sarif;
pub mod text;

use crate::check::AskDaemon;
use crate::config::{AuditArgs, VERSION};
use finding::Report;

/// Looks at everything and judges it. Ends within half a minute, whatever hangs.
pub async fn run(args: &AuditArgs, _ask: AskDaemon) -> Report {
    let access = match &args.run.kubeconfig {
        Some(file) => crate::apiserver::load(Some(file), args.run.context.as_deref()).await.ok(),
        None => None,
    };
    let credentials = match &access {
        Some(access) => access.credentials().await.ok(),
        None => None,
    };
    let roots = access.as_ref().map(|access| access.roots()).unwrap_or_default();
    let seen = collect::kubelet::look(args, credentials.as_ref(), roots).await;
    Report::new(VERSION, kubelet::findings(&seen, crate::clock::unix_now().cast_signed()))
}
