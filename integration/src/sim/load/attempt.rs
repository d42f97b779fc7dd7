//! One attempt: connect, do what the kind asks for, close, and count it.
//!
//! In: its number. Out: exactly one call of [`Recorder::end`], whatever happens.

use std::sync::Arc;

use anyhow::Result;

use super::config::{Config, Kind};
use super::dial::dial;
use super::echo::{self, Greeting};
use super::failure::Failure;
use super::https_get::HttpsGet;
use super::recorder::{Recorder, Trial};

/// What every attempt of a run shares.
pub(super) struct Attempt {
    config: Arc<Config>,
    recorder: Arc<Recorder>,
    action: Action,
}

enum Action {
    Tcp,
    Echo,
    Https(HttpsGet),
}

impl Attempt {
    pub(super) fn new(config: Arc<Config>, recorder: Arc<Recorder>) -> Result<Self> {
        let action = match &config.kind {
            Kind::Tcp => Action::Tcp,
            Kind::Echo => Action::Echo,
            Kind::Tls(kind) => Action::Https(HttpsGet::new(kind, "/readyz")?),
        };
        Ok(Self { config, recorder, action })
    }

    /// Does the `number`-th attempt.
    pub(super) async fn perform(self: Arc<Self>, number: u64) {
        let mut trial = Trial::new(self.config.target(number));
        let done = tokio::time::timeout(self.config.timeout, self.act(&mut trial, number)).await;
        let outcome = done.unwrap_or_else(|_| Err(timed_out(&trial)));
        self.recorder.end(&trial, outcome);
    }

    async fn act(&self, trial: &mut Trial, number: u64) -> Result<Option<Greeting>, Failure> {
        let source = self.config.source(number, trial.target);
        let mut stream = dial(trial, source).await?;
        match &self.action {
            Action::Tcp => Ok(None),
            Action::Echo => {
                let greeting = echo::greeting(&mut stream).await?;
                echo::exchange(&mut stream, number).await?;
                Ok(Some(greeting))
            }
            Action::Https(https) => https.get(stream).await.map(|()| None),
        }
    }
}

fn timed_out(trial: &Trial) -> Failure {
    Failure::timeout(if trial.connected_after.is_zero() { "connect" } else { "after connect" })
}
