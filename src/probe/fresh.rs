//! One probe over a connection of its own: TCP, TLS, `GET /readyz`; and a connection that is opened to be kept without that
//! question.
//!
//! In: whom to ask, as whom, and how long TCP and TLS, or a ping, may take. Out: what was found, and the connection, if it can
//! be kept.
//!
//! kube-apiserver answers an HTTP/2 request of a client that it does not know with the end of the connection (since 1.29, and
//! in patched older releases, against CVE-2023-44487). So a connection over which a stranger asked is never kept: neither
//! after a request without credentials, nor after one whose credentials were refused. Whoever was refused asks once more without
//! any: what it wants to know does not depend on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::failure::{BoxError, LocalError};
use super::kept::{Kept, News};
use super::metered::Metered;
use super::request::Question;
use super::socket::{LocalOr, connect};
use crate::model::health::{Answered, Caller, FailReason, Outcome, Probe};
use crate::readyz::{self, Credentials, Identity, UNAUTHORIZED, reason, tells_readiness};

/// How long a process that lives may take to answer `/readyz`. A kube-apiserver asks its etcd for 2 s before it says
/// that it is unready, and whoever answers 3 s late is slow, not dead. Longer than this, and it is unready.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) name: ServerName<'static>,
    pub(super) question: Question,
}

/// The end of one fresh probe.
pub(super) struct Attempt {
    /// What it found; the error if this node could not ask.
    pub(super) probe: Result<Probe, LocalError>,
    /// The connection, if it stays open and is of use.
    pub(super) kept: Option<Box<Kept>>,
    /// The credentials that were shown first.
    pub(super) shown: Option<Credentials>,
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
    handshake: Duration,
    local: bool,
}

/// What came of a question.
enum Found {
    Status(u16),
    /// The process lives, and does not say.
    Late,
    Failed(FailReason),
}

impl Found {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Late | Self::Failed(_) => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Status(status) => readyz::outcome(*status),
            Self::Late => Outcome::Unready,
            Self::Failed(reason) => Outcome::Failed(*reason),
        }
    }
}

/// One connection and its question.
struct Asked {
    found: Found,
    shaken: Option<(Duration, Duration, bool)>,
    kept: Option<Box<Kept>>,
}

/// Asks as `identity` says. Ends after twice `limit` and [`PATIENCE`] at the latest.
pub(super) async fn attempt(
    target: Target,
    identity: Identity,
    limit: Duration,
    waiting: Waiting,
) -> Attempt {
    let started = Instant::now();
    let shown = identity.credentials.clone();
    let (asked, caller) = match once(&target, &identity, limit, &waiting).await {
        Ok(asked) if asked.found.status() == Some(UNAUTHORIZED) && shown.is_some() => {
            let stranger = Identity::anonymous(identity.trust);
            (once(&target, &stranger, limit, &waiting).await, Caller::Refused)
        }
        asked if shown.is_some() => (asked, Caller::Authenticated),
        asked => (asked, Caller::Anonymous),
    };
    let Asked { found, shaken, kept } = match asked {
        Ok(asked) => asked,
        Err(local) => return Attempt { probe: Err(local), kept: None, shown },
    };
    let answered = found.status().map(|status| Answered { caller, readiness_known: tells_readiness(status) });
    if found.outcome() != Outcome::Ready {
        let (address, outcome) = (target.address, found.outcome());
        tracing::debug!(%address, ?outcome, ?answered, "a fresh probe was not answered as ready");
    }
    let (started, finished) = (started.into_std(), Instant::now().into_std());
    let (round_trip, handshake, local) = match shaken {
        Some((round_trip, handshake, local)) => (Some(round_trip), Some(handshake), Some(local)),
        None => (None, None, None),
    };
    let outcome = found.outcome();
    let probe = Ok(Probe { started, finished, outcome, round_trip, handshake, local, answered });
    Attempt { probe, kept: kept.filter(|_| caller == Caller::Authenticated), shown }
}

async fn once(
    target: &Target,
    identity: &Identity,
    limit: Duration,
    waiting: &Waiting,
) -> Result<Asked, LocalError> {
    let credentials = identity.credentials.as_ref();
    let started = Instant::now();
    match open(target, &identity.trust, credentials, limit).await {
        Ok(Shaken { kept, round_trip, handshake, local }) => {
            let _waits = waiting.enter();
            let authorization = credentials.and_then(|credentials| credentials.authorization.as_ref());
            let (found, kept) = ask(kept, started, authorization, limit).await;
            Ok(Asked { found, shaken: Some((round_trip, handshake, local)), kept })
        }
        Err(error) => {
            let error = local(error)?;
            let reason = reason(error.as_ref());
            tracing::debug!(address = %target.address, %reason, ?error, "no connection for a probe");
            Ok(Asked { found: Found::Failed(reason), shaken: None, kept: None })
        }
    }
}

/// Opens a connection, without credentials, over which `/readyz` is never asked for: its end, its silence and its pings tell of the
/// apiserver what can be told without being known to it.
pub(super) async fn hold(target: Target, trust: Arc<ClientConfig>, limit: Duration) -> Option<Box<Kept>> {
    match open(&target, &trust, None, limit).await {
        Ok(shaken) => Some(shaken.kept),
        Err(error) => {
            // Probes tell what there is to say of it.
            tracing::debug!(address = %target.address, ?error, "no connection to keep could be opened");
            None
        }
    }
}

async fn open(
    target: &Target,
    trust: &ClientConfig,
    credentials: Option<&Credentials>,
    limit: Duration,
) -> Result<Shaken, BoxError> {
    let started = Instant::now();
    // HTTP/2 where the server has it: a ping is answered while a question is not.
    let tls = readyz::settings(trust, credentials, &[b"h2", b"http/1.1"]);
    // The answer is looked for before the clock: after a pause of this process both are there.
    let shaken = timeout(limit, shake_hands(target, tls)).await;
    let (kept, round_trip, local) = shaken.unwrap_or_else(|late| Err(io::Error::from(late).into()))?;
    Ok(Shaken { kept, round_trip, handshake: started.elapsed(), local })
}

async fn shake_hands(
    target: &Target,
    tls: Arc<ClientConfig>,
) -> Result<(Box<Kept>, Duration, bool), BoxError> {
    let started = Instant::now();
    let stream = connect(target.address).await?;
    let round_trip = started.elapsed();
    let local = stream.local_addr().is_ok_and(|own| own.ip() == target.address.ip());
    let stream = TlsConnector::from(tls).connect(target.name.clone(), Metered::new(stream)).await?;
    let kept = Kept::open(stream, target.question.clone()).await?;
    Ok((Box::new(kept), round_trip, local))
}

/// Asks for `/readyz`. While there is no answer pings over HTTP/2 tell a process that is busy from one that is gone, each in
/// `limit`: hands that were shaken say nothing of a cable that was cut since.
async fn ask(
    mut kept: Box<Kept>,
    started: Instant,
    authorization: Option<&HeaderValue>,
    limit: Duration,
) -> (Found, Option<Box<Kept>>) {
    kept.ask(started, authorization);
    let mut ping_at = Instant::now() + limit;
    let answer_by = Instant::now() + PATIENCE;
    loop {
        let news = tokio::select! {
            biased;
            news = kept.news() => news,
            () = sleep_until(ping_at.min(answer_by)) => {
                let now = Instant::now();
                if kept.pinged().is_some() && now >= ping_at {
                    return (Found::Failed(FailReason::Timeout), None);
                }
                if now >= answer_by {
                    kept.take_back();
                    return (Found::Late, kept.multiplexes().then_some(kept));
                }
                kept.ping(now);
                ping_at = now + limit;
                continue;
            }
        };
        match news {
            News::Answer { status, last, .. } => return (Found::Status(status), (!last).then_some(kept)),
            News::Unanswered(_, reason) | News::Ended(reason) => return (Found::Failed(reason), None),
            News::Pong(_) => {}
        }
    }
}

fn local(error: BoxError) -> Result<BoxError, LocalError> {
    match error.downcast::<LocalOr>() {
        Ok(error) => match *error {
            LocalOr::Local(local) => Err(local),
            peer => Ok(Box::new(peer)),
        },
        Err(error) => Ok(error),
    }
}
