//! One probe over a connection of its own: TCP, TLS, `GET /readyz`.
//!
//! In: whom to ask, and how long it may take. Out: what was found, and the connection, if it can be kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::failure::{BoxError, LocalError, reason};
use super::kept::{Kept, News};
use super::metered::Metered;
use super::request::Question;
use super::socket::{LocalOr, connect};
use crate::model::health::{FailReason, Outcome, Probe};

/// Whom to ask, and as whom to believe it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) name: ServerName<'static>,
    pub(super) question: Question,
}

/// The end of one fresh probe.
pub(super) struct Attempt {
    /// What it found; `None` if this node could not ask.
    pub(super) probe: Result<Probe, LocalError>,
    /// The connection, if it was answered on it and stays open.
    pub(super) kept: Option<Box<Kept>>,
}

struct Answered {
    outcome: Outcome,
    round_trip: Duration,
    kept: Option<Box<Kept>>,
}

/// Asks. Ends after `limit` at the latest.
pub(super) async fn attempt(target: Target, trust: Arc<ClientConfig>, limit: Duration) -> Attempt {
    let started = Instant::now();
    // The answer is looked for before the clock: after a pause of this process both are there.
    let result = timeout(limit, ask(&target, trust)).await;
    let finished = Instant::now().into_std();
    let (outcome, round_trip, kept) = match result {
        Ok(Ok(Answered { outcome, round_trip, kept })) => (outcome, Some(round_trip), kept),
        Ok(Err(error)) => match local(error) {
            Ok(local) => return Attempt { probe: Err(local), kept: None },
            Err(error) => {
                let reason = reason(error.as_ref());
                tracing::debug!(address = %target.address, %reason, ?error, "a probe failed");
                (Outcome::Failed(reason), None, None)
            }
        },
        Err(_) => {
            tracing::debug!(address = %target.address, ?limit, "a probe was not answered in time");
            (Outcome::Failed(FailReason::Timeout), None, None)
        }
    };
    Attempt { probe: Ok(Probe { started: started.into_std(), finished, outcome, round_trip }), kept }
}

async fn ask(target: &Target, trust: Arc<ClientConfig>) -> Result<Answered, BoxError> {
    let started = Instant::now();
    let stream = connect(target.address).await?;
    let round_trip = started.elapsed();
    let connector = TlsConnector::from(trust);
    let stream = connector.connect(target.name.clone(), Metered::new(stream)).await?;
    let mut kept = Kept::open(stream, target.question.clone()).await?;
    kept.ask(started);
    loop {
        match kept.news().await {
            News::Answer { outcome, last, .. } => {
                return Ok(Answered { outcome, round_trip, kept: (!last).then(|| Box::new(kept)) });
            }
            News::Unanswered(_, reason) | News::Ended(reason) => {
                return Ok(Answered { outcome: Outcome::Failed(reason), round_trip, kept: None });
            }
            News::Pong(_) => {}
        }
    }
}

fn local(error: BoxError) -> Result<LocalError, BoxError> {
    match *error.downcast::<LocalOr>()? {
        LocalOr::Local(local) => Ok(local),
        peer => Err(Box::new(peer)),
    }
}

/// The settings that a probe needs on top of whom to trust. A resumed session would not show the certificate again,
/// and a probe is there to see it.
pub(super) fn settings(trust: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = trust.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
