//! Long-lived echo connections that say something ten times a second.
//!
//! In: how many and where to. Out: in the recorder, how many opened and how many broke before the run ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::Config;
use super::dial::dial;
use super::echo::{self, Greeting};
use super::failure::Failure;
use super::recorder::{Recorder, Trial};

/// Time between two exchanges of one connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections opened at the same time, so that a thousand of them do not overflow a listener's backlog.
const OPENING: usize = 64;

/// The open connections; they go on until closed.
pub(super) struct Established {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Established {
    /// Opens them all; what fails is counted as broken.
    pub(super) async fn open(config: &Arc<Config>, recorder: &Arc<Recorder>) -> Self {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let turns = Arc::new(tokio::sync::Semaphore::new(OPENING));
        let mut opened = JoinSet::new();
        for number in 0..config.established as u64 {
            let (config, recorder, turns) = (config.clone(), recorder.clone(), turns.clone());
            opened.spawn(async move {
                let _turn = turns.acquire_owned().await;
                open_one(&config, &recorder, number).await
            });
        }
        while let Some(connection) = opened.join_next().await {
            if let Ok(Some((trial, stream))) = connection {
                tasks.spawn(keep(config.clone(), recorder.clone(), trial, stream, stop.subscribe()));
            }
        }
        Self { tasks, stop }
    }

    /// Ends them after their present exchange.
    pub(super) async fn close(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(task) = self.tasks.join_next().await {
            task.context("a long-lived connection's task died")?;
        }
        Ok(())
    }
}

async fn open_one(config: &Config, recorder: &Recorder, number: u64) -> Option<(Trial, TcpStream)> {
    let mut trial = Trial::new(config.established_target(number));
    match tokio::time::timeout(config.timeout, greeted(config, &mut trial, number)).await {
        Ok(Ok((stream, Greeting { server, .. }))) => {
            recorder.opened(server);
            Some((trial, stream))
        }
        Ok(Err(failure)) => {
            recorder.broke(&trial, failure);
            None
        }
        Err(_) => {
            recorder.broke(&trial, Failure::timeout("open a long-lived connection"));
            None
        }
    }
}

async fn greeted(config: &Config, trial: &mut Trial, number: u64) -> Result<(TcpStream, Greeting), Failure> {
    let source = config.source(number, trial.target);
    let mut stream = dial(trial, source).await?;
    let greeting = echo::greeting(&mut stream).await?;
    Ok((stream, greeting))
}

async fn keep(
    config: Arc<Config>,
    recorder: Arc<Recorder>,
    trial: Trial,
    mut stream: TcpStream,
    mut stop: watch::Receiver<bool>,
) {
    let mut number = u64::from(trial.local.map_or(0, |local| local.port())) << 32;
    let mut stopping = false;
    loop {
        let began = Instant::now();
        let exchange = tokio::time::timeout(config.timeout, echo::exchange(&mut stream, number)).await;
        match exchange.unwrap_or_else(|_| Err(Failure::timeout("exchange"))) {
            Ok(()) => recorder.exchanged(began.elapsed()),
            Err(failure) => return recorder.broke(&trial, failure),
        }
        // A break is noticed at an exchange, so the end is one more of them.
        if stopping {
            return;
        }
        number += 1;
        stopping = tokio::time::timeout(PAUSE, stop.wait_for(|stop| *stop)).await.is_ok();
    }
}
