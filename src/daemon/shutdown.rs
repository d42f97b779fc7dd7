//! The end of the daemon: releases the table, hands the proxy's listeners to the next daemon, drains connections, and cleans up
//! if `--cleanup-on-exit` was given.
//!
//! In: what the reconciler gave back, and the lock. Out: a node that the next daemon can take over, or a clean one.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::DaemonError;
use crate::config::RunArgs;
use crate::conntrack::Flows;
use crate::dataplane::{Dataplane, Host};
use crate::nftables::dataplane::Nftables;
use crate::process::handover::Offer;
use crate::process::lock::Lock;
use crate::proxy::Forwarder;
use crate::reconcile::Parts;
use crate::routes::Node;

/// How long the next daemon may take to start and to ask for the listeners. Until then, or until it has them, connections are
/// accepted as before.
const OFFER_TIMEOUT: Duration = Duration::from_millis(800);

/// All other tasks have ended.
pub(super) async fn finish(
    parts: Parts<Nftables, Node, Option<Flows>, Option<Forwarder>>,
    args: &RunArgs,
    lock: Lock,
) -> Result<(), DaemonError> {
    let Parts { mut dataplane, mut host, forwarder, .. } = parts;
    // From here on another daemon may start and adopt the table. What follows does not touch it.
    dataplane.release().await;
    let offer = forwarder.as_ref().and_then(|_| offer_listeners(&args.run_dir));
    drop(lock);
    let followed = match forwarder {
        Some(forwarder) => drain(forwarder, offer, args.forwarder.drain_grace).await,
        None => false,
    };
    if args.cleanup_on_exit && !followed {
        // Without the lock, the table may be that of a daemon that has started meanwhile. With it, that daemon waits.
        match Lock::take_back(&args.run_dir) {
            Some(_lock) => {
                let table = dataplane.remove().await?;
                let routes = host.remove_routes().await?;
                host.release_local_vips().await?;
                tracing::info!(
                    event = %"cleanup_completed", table, ?routes,
                    "Removed rules and routes from this node"
                );
            }
            None => {
                tracing::info!(
                    event = %"cleanup_skipped",
                    "Another daemon has started, leaving rules and routes to it"
                );
            }
        }
    }
    Ok(())
}

/// The socket of the hand-over. It must be there before the next daemon can have the lock, or that would not find it.
fn offer_listeners(run_dir: &Path) -> Option<Offer> {
    Offer::open(run_dir)
        .inspect_err(|error| {
            tracing::warn!(
                event = %"listener_offer_failed", %error, run_dir = %run_dir.display(),
                "Failed to offer listeners to another daemon"
            );
        })
        .ok()
}

/// Hands the listeners to the next daemon, waits for the connections to end, and resets those that are left after `grace`. Returns
/// whether there is a next daemon.
async fn drain(forwarder: Forwarder, offer: Option<Offer>, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    let listeners = forwarder.listeners().await.unwrap_or_default();
    let mut followers: Vec<UnixStream> = Vec::new();
    // Without listeners there is nothing to hand over.
    if let (Some(offer), false) = (&offer, listeners.is_empty()) {
        let until = (Instant::now() + OFFER_TIMEOUT).min(deadline);
        followers.extend(timeout_at(until, give(offer, &listeners)).await.ok());
        if !followers.is_empty() {
            tracing::info!(
                event = %"listeners_handed_over", listeners = listeners.len(),
                "Handed over listeners to another daemon"
            );
        }
    }
    // The kernel accepts connections for as long as one of the duplicates is open.
    drop(listeners);
    let drained = forwarder.drain(deadline.saturating_duration_since(Instant::now()));
    let mut drained = std::pin::pin!(drained);
    // A daemon that comes later gets no listener, but learns when this one has ended.
    let reset = loop {
        tokio::select! {
            reset = &mut drained => break reset,
            stream = async {
                match &offer {
                    Some(offer) => give(offer, &[]).await,
                    None => std::future::pending().await,
                }
            } => followers.push(stream),
        }
    };
    if reset > 0 {
        tracing::warn!(
            event = %"drain_grace_exceeded", connections = reset,
            "Reset connections that were open after the drain grace period"
        );
    }
    !followers.is_empty()
}

/// Waits for a daemon that connects, and gives it these listeners.
async fn give(offer: &Offer, listeners: &[TcpListener]) -> UnixStream {
    loop {
        match offer.give(listeners).await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(
                    event = %"listener_handover_failed", %error,
                    "Failed to hand over listeners to another daemon"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
