//! The long-lived connections.
//!
//! In: how many of which kind. Out: in the journal, their histories. They are open when [`Kept::open`] returns, and
//! stay so until they break or [`Kept`] is dropped.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::busy::{self, Direction};
use super::config::Config;
use super::http::{Broken, Https, Session};
use super::journal::{Entry, Journal};
use super::timeline::Kind;
use crate::sim::load::dial::dial;
use crate::sim::load::failure::Failure;
use crate::sim::load::recorder::Trial;

/// Connections opened at the same time, so that thousands of them do not overflow a listener's backlog.
const OPENING: usize = 64;

/// A watch on which nothing happens for minutes.
const WATCH: &str = "/api/v1/namespaces/default/services?watch=true&fieldSelector=metadata.name%3Dkubernetes";

/// The open connections.
pub(super) struct Kept {
    _tasks: JoinSet<()>,
}

/// A connection that got through.
enum Open {
    Silent(Box<Session>),
    Busy(Box<Session>, Vec<u8>),
    Pipelined(Box<Session>, Vec<u8>),
}

impl Kept {
    /// Opens them all; one that does not get through is an error.
    pub(super) async fn open(config: &Arc<Config>, journal: &Arc<Journal>) -> Result<Self> {
        let https = Arc::new(Https::new(&config.tls)?);
        let turns = Arc::new(Semaphore::new(OPENING));
        let mut opening = JoinSet::new();
        for (kind, count) in config.kept.iter().copied() {
            for number in 0..count {
                let (config, journal, https) = (config.clone(), journal.clone(), https.clone());
                let turns = turns.clone();
                opening.spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    let entry = journal.begin(kind, config.target(number));
                    let opened = tokio::time::timeout(
                        config.timeout,
                        open(&config, &https, &journal, entry, kind, number),
                    );
                    let opened = opened.await.unwrap_or_else(|_| Err(Failure::timeout("open").into()));
                    (entry, kind, opened)
                });
            }
        }
        let mut tasks = JoinSet::new();
        while let Some(opened) = opening.join_next().await {
            match opened.context("a client's task died")? {
                (entry, _, Ok(open)) => drop(tasks.spawn(keep(journal.clone(), entry, open))),
                (_, kind, Err(Broken::Closed)) => bail!("the server closed a new {kind:?} connection"),
                (_, kind, Err(Broken::Failed(failure))) => {
                    bail!("a {kind:?} connection did not get through: {}", failure.detail)
                }
            }
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn open(
    config: &Config,
    https: &Https,
    journal: &Journal,
    entry: Entry,
    kind: Kind,
    number: usize,
) -> Result<Open, Broken> {
    let mut trial = Trial::new(config.target(number));
    let dialled = dial(&mut trial, None).await;
    journal.local(entry, trial.local);
    let stream = dialled?;
    journal.connected(entry);
    let request = match kind {
        Kind::Upload => busy::request(https, Direction::Up),
        Kind::Download => busy::request(https, Direction::Down),
        Kind::Pipelined | Kind::Idle | Kind::Fresh => busy::small_request(https),
        Kind::Watch | Kind::HalfClosed => {
            let mut session = https.open(stream).await?;
            session.write(&https.get(WATCH)).await?;
            session.head().await?;
            journal.progress(entry);
            if kind == Kind::HalfClosed {
                session.finish().await?;
            }
            return Ok(Open::Silent(Box::new(session)));
        }
    };
    let mut session = https.open(stream).await?;
    busy::exchange(&mut session, &request, || journal.progress(entry)).await?;
    let session = Box::new(session);
    Ok(match kind {
        Kind::Upload | Kind::Download => Open::Busy(session, request),
        Kind::Pipelined => Open::Pipelined(session, request),
        _ => Open::Silent(session),
    })
}

async fn keep(journal: Arc<Journal>, entry: Entry, open: Open) {
    let progress = || journal.progress(entry);
    let broken = match open {
        Open::Silent(mut session) => session.drain(progress).await,
        Open::Busy(mut session, request) => busy::go_on(&mut session, &request, progress).await,
        Open::Pipelined(mut session, request) => busy::pipeline(&mut session, &request, progress).await,
    };
    journal.broke(entry, broken);
}
