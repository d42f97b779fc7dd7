//! One probe over a connection of its own: TCP, TLS, `GET /readyz`.
//!
//! In: whom to ask, and how long shaking hands (TCP and TLS) and a PING may take. Out: what was found, and the
//! connection, if it can be kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::failure::{BoxError, LocalError};
use super::kept::{Kept, News};
use super::metered::Metered;
use super::request::Question;
use super::socket::{LocalOr, connect};
use crate::model::health::{FailReason, Outcome, Probe};
use crate::readyz::{self, reason};

/// How long a process that lives may take to answer `/readyz`. A kube-apiserver asks its etcd for 2 s before it says
/// that it is unready, and whoever answers 3 s late is slow, not dead. Longer than this, and it is unready.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

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
    /// The connection, if it stays open and is of use.
    pub(super) kept: Option<Box<Kept>>,
}

/// How many fresh probes of one backend have shaken hands and wait for `/readyz`.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(self.clone())
    }
}

/// One of them.
struct Waits(Waiting);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Shaken {
    kept: Box<Kept>,
    round_trip: Duration,
    local: bool,
}

/// Asks. Ends after `limit` and [`PATIENCE`] at the latest.
pub(super) async fn attempt(
    target: Target,
    trust: Arc<ClientConfig>,
    limit: Duration,
    waiting: Waiting,
) -> Attempt {
    let started = Instant::now();
    // The answer is looked for before the clock: after a pause of this process both are there.
    let shaken = timeout(limit, shake_hands(&target, trust)).await;
    let handshake = started.elapsed();
    let (outcome, shaken, kept) = match shaken.unwrap_or_else(|late| Err(io::Error::from(late).into())) {
        Ok(Shaken { kept, round_trip, local }) => {
            let _waits = waiting.enter();
            let (outcome, kept) = ask(kept, started, limit).await;
            if outcome != Outcome::Ready {
                tracing::debug!(address = %target.address, ?outcome, "hands were shaken, and /readyz asked for");
            }
            (outcome, Some((round_trip, local)), kept)
        }
        Err(error) => match local(error) {
            Ok(local) => return Attempt { probe: Err(local), kept: None },
            Err(error) => {
                let reason = reason(error.as_ref());
                tracing::debug!(address = %target.address, %reason, ?error, "a probe failed");
                (Outcome::Failed(reason), None, None)
            }
        },
    };
    let (started, finished) = (started.into_std(), Instant::now().into_std());
    let handshake = shaken.map(|_| handshake);
    let (round_trip, local) = shaken.unzip();
    Attempt { probe: Ok(Probe { started, finished, outcome, round_trip, handshake, local }), kept }
}

async fn shake_hands(target: &Target, trust: Arc<ClientConfig>) -> Result<Shaken, BoxError> {
    let started = Instant::now();
    let stream = connect(target.address).await?;
    let round_trip = started.elapsed();
    let local = stream.local_addr().is_ok_and(|own| own.ip() == target.address.ip());
    let connector = TlsConnector::from(trust);
    let stream = connector.connect(target.name.clone(), Metered::new(stream)).await?;
    let kept = Kept::open(stream, target.question.clone()).await?;
    Ok(Shaken { kept: Box::new(kept), round_trip, local })
}

/// Asks for `/readyz`. While there is no answer PINGs tell a process that is busy from one that is gone, each in
/// `limit`: hands that were shaken say nothing of a cable that was cut since.
async fn ask(mut kept: Box<Kept>, started: Instant, limit: Duration) -> (Outcome, Option<Box<Kept>>) {
    kept.ask(started);
    let mut ping_at = Instant::now() + limit;
    let answer_by = Instant::now() + PATIENCE;
    loop {
        let news = tokio::select! {
            biased;
            news = kept.news() => news,
            () = sleep_until(ping_at.min(answer_by)) => {
                let now = Instant::now();
                if kept.pinged().is_some() && now >= ping_at {
                    return (Outcome::Failed(FailReason::Timeout), None);
                }
                if now >= answer_by {
                    kept.take_back();
                    return (Outcome::Unready, kept.can_ping().then_some(kept));
                }
                kept.ping(now);
                ping_at = now + limit;
                continue;
            }
        };
        match news {
            News::Answer { outcome, last, .. } => return (outcome, (!last).then_some(kept)),
            News::Unanswered(_, reason) | News::Ended(reason) => return (Outcome::Failed(reason), None),
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

/// HTTP/2 where the server has it, for its PINGs.
pub(super) fn settings(trust: &ClientConfig) -> Arc<ClientConfig> {
    readyz::settings(trust, &[b"h2", b"http/1.1"])
}
