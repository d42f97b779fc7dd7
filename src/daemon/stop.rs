//! The end of a daemon whose forwarder has connections: it offers its listeners to the daemon that follows, lets its
//! connections end, and resets what is left.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::process::handover::Offer;
use crate::proxy::Forwarder;

/// How long a daemon that follows may take to start and to ask for the listeners. Until then, or until it has them,
/// connections are accepted as before.
const OFFERED: Duration = Duration::from_millis(800);

/// Where the daemon that follows asks. It must be there before that one can have the lock, or it would find nobody.
pub(super) fn offer(run_dir: &Path) -> Option<Offer> {
    Offer::open(run_dir)
        .inspect_err(|error| {
            tracing::warn!(%error, run_dir = %run_dir.display(), "cannot offer the listeners to another daemon");
        })
        .ok()
}

/// Returns whether another daemon follows.
pub(super) async fn drain(forwarder: Forwarder, offer: Option<Offer>, grace: Duration) -> bool {
    let end = Instant::now() + grace;
    let listeners = forwarder.listeners().await.unwrap_or_default();
    let mut followers: Vec<UnixStream> = Vec::new();
    // Without listeners nobody can come, and there is nothing to give.
    if let (Some(offer), false) = (&offer, listeners.is_empty()) {
        let until = (Instant::now() + OFFERED).min(end);
        followers.extend(timeout_at(until, give(offer, &listeners)).await.ok());
        if !followers.is_empty() {
            tracing::info!(listeners = listeners.len(), "another daemon has the listeners");
        }
    }
    // While one is kept here, the kernel keeps accepting for it.
    drop(listeners);
    let drained = forwarder.drain(end.saturating_duration_since(Instant::now()));
    let mut drained = std::pin::pin!(drained);
    // Who comes later gets no listener, but learns when this daemon has ended.
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
        tracing::warn!(connections = reset, "reset the connections that had not ended within --drain-grace");
    }
    !followers.is_empty()
}

/// Waits for a daemon that takes these listeners.
async fn give(offer: &Offer, listeners: &[TcpListener]) -> UnixStream {
    loop {
        match offer.give(listeners).await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(%error, "another daemon could not take the listeners over");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
