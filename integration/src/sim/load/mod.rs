//! An open-loop generator of connections: the judge of "no connection failed".
//!
//! In: targets, a rate and a kind of connection. Out: a [`report::Report`] in which every attempt is either ok or
//! failed for a named reason. Attempts start on schedule whatever became of the earlier ones, so a stalled target
//! cannot hide by slowing the generator down.

pub mod config;
pub mod report;

mod attempt;
pub(crate) mod dial;
mod echo;
mod established;
pub(crate) mod failure;
mod histogram;
pub(crate) mod https_get;
pub(crate) mod recorder;
mod schedule;

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;

use attempt::Attempt;
use config::Config;
use established::Established;
use recorder::Recorder;
use report::Report;

/// What a run tells while it goes on.
pub trait Observer {
    /// The first connection succeeded.
    fn started(&mut self);
    /// The counts so far, at every `report_every`.
    fn progress(&mut self, report: &Report);
}

/// Runs until `stop` resolves or the duration is over; attempts under way are waited for.
///
/// The long-lived connections are opened before the first attempt starts.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()>,
    observer: &mut impl Observer,
) -> Result<Report> {
    let config = Arc::new(config);
    let recorder = Arc::new(Recorder::new());
    let attempt = Arc::new(Attempt::new(config.clone(), recorder.clone())?);
    let established = Established::open(&config, &recorder).await;
    schedule::run(&config, &attempt, &recorder, stop, observer).await?;
    established.close().await?;
    recorder.report().checked()
}

#[cfg(test)]
mod tests;
