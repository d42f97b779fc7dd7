//! Clients of several kinds at once, and the history of each of their connections: the judge of a failover.
//!
//! In: targets, how many connections of which kind. Out: a [`timeline::Timeline`]: when each connection began, got
//! through, spoke last and ended, and how it ended, as the client itself saw it. Nothing is ever closed from here
//! before the end of the run, so every end is news from the other side.

pub mod config;
pub mod timeline;

mod busy;
mod fresh;
mod http;
mod journal;
mod kept;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;

use config::Config;
use journal::Journal;
use kept::Kept;
use timeline::Timeline;

/// Runs until `stop` resolves; fresh connections under way are waited for. `started` is called once every
/// long-lived connection got through and, where fresh ones are wanted, the first of them, with the clients' own
/// addresses of the long-lived ones; `ended` with each of those that ends.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&[SocketAddr]),
    ended: impl Fn(&timeline::Connection) + Send + Sync + 'static,
) -> Result<Timeline> {
    let config = Arc::new(config);
    let journal = Arc::new(Journal::new(Box::new(ended)));
    let kept = Kept::open(&config, &journal).await?;
    let locals: Vec<SocketAddr> = journal.timeline().kept().filter_map(|c| c.local).collect();
    fresh::run(&config, &journal, stop, || started(&locals)).await?;
    drop(kept);
    Ok(journal.timeline())
}

#[cfg(test)]
mod tests;
