//! The names among the seeds, resolved again as they change.
//!
//! In: seeds, and whether the API has been read. Out: what each name stands for, whenever that changes. A name that
//! cannot be resolved keeps what it stood for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::model::address::Seed;

/// Between two questions while a name cannot be resolved: the name server may be about to start as well.
const UNRESOLVED: Duration = Duration::from_secs(1);
/// While the API has not been read: a node that waits for it must soon learn of a new address.
const UNREAD: Duration = Duration::from_secs(5);
/// From then on: 5,000 nodes ask 80 times a second.
const READ: Duration = Duration::from_secs(60);

/// What a seed stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The seed.
    pub seed: Seed,
    /// At least one address.
    pub addresses: BTreeSet<SocketAddr>,
}

/// Resolves every seed that is a name until nobody wants to know any more. `read` is true once the API has been read.
pub async fn follow(seeds: Vec<Seed>, read: watch::Receiver<bool>, resolved: mpsc::Sender<Resolved>) {
    let mut names = JoinSet::new();
    for seed in seeds.into_iter().filter(|seed| seed.address().is_none()) {
        names.spawn(follow_one(seed, read.clone(), resolved.clone()));
    }
    while names.join_next().await.is_some() {}
}

async fn follow_one(seed: Seed, read: watch::Receiver<bool>, resolved: mpsc::Sender<Resolved>) {
    let mut known = BTreeSet::new();
    let mut failure = None;
    loop {
        match lookup(&seed).await {
            Ok(addresses) => {
                if failure.take().is_some() {
                    tracing::info!(%seed, ?addresses, "the name of a seed is resolved again");
                }
                if addresses != known {
                    known.clone_from(&addresses);
                    tracing::info!(%seed, ?addresses, "a seed stands for these addresses");
                    if resolved.send(Resolved { seed: seed.clone(), addresses }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(%seed, error, "cannot resolve the name of a seed; what it stood for is kept");
                }
                failure = Some(error);
            }
        }
        let pause = match (known.is_empty(), *read.borrow()) {
            (_, true) => READ,
            (true, false) => UNRESOLVED,
            (false, false) => UNREAD,
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
    if addresses.is_empty() { Err("it stands for no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_told_once_and_addresses_are_left_alone() {
        let (sender, mut resolved) = mpsc::channel(4);
        let seeds = ["localhost:6443", "192.0.2.11:6443"].map(|seed| seed.parse().unwrap()).to_vec();
        let task = tokio::spawn(follow(seeds, watch::channel(true).1, sender));
        let told = resolved.recv().await.unwrap();
        assert_eq!(told.seed.to_string(), "localhost:6443");
        assert!(told.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 6443));
        drop(resolved);
        task.await.unwrap();
    }
}
