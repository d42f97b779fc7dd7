//! Short connections, one after the other on schedule, whatever became of the earlier ones.
//!
//! In: how often, and what they do. Out: in the journal, the history of each.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::config::{Config, Fresh};
use super::http::Broken;
use super::journal::Journal;
use super::timeline::{End, Kind};
use crate::sim::load::dial::dial;
use crate::sim::load::failure::Failure;
use crate::sim::load::https_get::HttpsGet;
use crate::sim::load::recorder::Trial;

/// Answered by every apiserver that works at all, even one that is not ready.
const PATH: &str = "/version";

/// What every fresh connection shares.
struct Client {
    config: Arc<Config>,
    journal: Arc<Journal>,
    https: HttpsGet,
    any_done: AtomicBool,
}

/// Begins connections until `stop` resolves, then waits for those under way.
pub(super) async fn run(
    config: &Arc<Config>,
    journal: &Arc<Journal>,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(),
) -> Result<()> {
    let Some(every) = config.fresh_every else {
        started();
        stop.await;
        return Ok(());
    };
    let client = Arc::new(Client {
        config: config.clone(),
        journal: journal.clone(),
        https: HttpsGet::new(&config.tls, PATH)?,
        any_done: AtomicBool::new(false),
    });
    let mut started = Some(started);
    let mut stop = pin!(stop);
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = JoinSet::new();
    for number in 0.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
        tasks.spawn(client.clone().one(number));
        while let Some(task) = tasks.try_join_next() {
            task.context("a client's task died")?;
        }
        if client.any_done.load(Ordering::Relaxed)
            && let Some(started) = started.take()
        {
            started();
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.context("a client's task died")?;
    }
    Ok(())
}

impl Client {
    async fn one(self: Arc<Self>, number: usize) {
        let target = self.config.target(number);
        let entry = self.journal.begin(Kind::Fresh, target);
        let mut trial = Trial::new(target);
        let act = async {
            let dialled = dial(&mut trial, None).await;
            self.journal.local(entry, trial.local);
            let stream = dialled?;
            self.journal.connected(entry);
            match self.config.fresh {
                Fresh::Tcp => Ok(()),
                Fresh::Tls => self.https.get(stream).await,
            }
        };
        match tokio::time::timeout(self.config.timeout, act).await {
            Ok(Ok(())) => {
                self.any_done.store(true, Ordering::Relaxed);
                self.journal.end(entry, End::Done, String::new());
            }
            Ok(Err(failure)) => self.journal.broke(entry, Broken::Failed(failure)),
            Err(_) => self.journal.broke(entry, Failure::timeout("the client's own timeout").into()),
        }
    }
}
