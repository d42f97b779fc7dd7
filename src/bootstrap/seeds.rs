//! The names among the seeds, resolved again as they change.
//!
//! In: seeds, and whether the API has been read. Out: what each name resolves to, whenever that changes. A name that
//! cannot be resolved keeps its addresses.

use crate::model::address::Seed;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two lookups while a name cannot be resolved: the name server may be about to start as well.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// While the API has not been read: a node that waits for it must soon learn of a new address.
const INTERVAL_BEFORE_SYNC: Duration = Duration::from_secs(5);
/// From then on: 5,000 nodes ask 80 times a second.
const INTERVAL: Duration = Duration::from_secs(60);

/// What the name of a seed resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedSeed {
    /// The seed.
    pub seed: Seed,
    /// At least one address.
    pub addresses: BTreeSet<SocketAddr>,
}

/// Resolves every seed that is a name until the receiver is dropped. `read` is true once the API has been read.
pub async fn resolve_all(
    seeds: Vec<Seed>,
    read: watch::Receiver<bool>,
    resolved: mpsc::Sender<ResolvedSeed>,
) {
    let mut names = JoinSet::new();
    for seed in seeds.into_iter().filter(|seed| seed.address().is_none()) {
        names.spawn(resolve_one(seed, read.clone(), resolved.clone()));
    }
    while names.join_next().await.is_some() {}
}

async fn resolve_one(seed: Seed, read: watch::Receiver<bool>, resolved: mpsc::Sender<ResolvedSeed>) {
    let mut known = BTreeSet::new();
    let mut failure = None;
    loop {
        match lookup(&seed).await {
            Ok(addresses) => {
                if failure.take().is_some() {
                    tracing::info!(
                        event = %"seed_resolution_recovered", %seed, ?addresses,
                        "Seed name resolves again"
                    );
                }
                if addresses != known {
                    known.clone_from(&addresses);
                    tracing::info!(event = %"seed_resolved", %seed, ?addresses, "Resolved seed name");
                    if resolved.send(ResolvedSeed { seed: seed.clone(), addresses }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        event = %"seed_resolution_failed", %seed, error,
                        "Failed to resolve seed name, keeping its last addresses"
                    );
                }
                failure = Some(error);
            }
        }
        let pause = match (known.is_empty(), *read.borrow()) {
            (_, true) => INTERVAL,
            (true, false) => RETRY_INTERVAL,
            (false, false) => INTERVAL_BEFORE_SYNC,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = resolved.closed() => return,
        }
    }
}

async fn lookup(seed: &Seed) -> Result<BTreeSet<SocketAddr>, String> {
    let found = tokio::net::lookup_host((seed.host(), seed.port())).await;
    let addresses: BTreeSet<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn name_is_resolved_once_and_addresses_are_left_alone() {
        let (sender, mut resolved) = mpsc::channel(4);
        let seeds = ["localhost:6443", "192.0.2.11:6443"].map(|seed| seed.parse().unwrap()).to_vec();
        let task = tokio::spawn(resolve_all(seeds, watch::channel(true).1, sender));
        let first = resolved.recv().await.unwrap();
        assert_eq!(first.seed.to_string(), "localhost:6443");
        assert!(first.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 6443));
        drop(resolved);
        task.await.unwrap();
    }
}
