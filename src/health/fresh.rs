//! One probe over a connection of its own: TCP, TLS, `GET /readyz`; and a connection that is opened to be kept without that
//! question.
//!
//! In: whom to ask, as whom, and after how long TCP and TLS, or a ping, are overdue. Out: what was found, and the connection, if it
//! can be kept. An answer is waited for longer than that: who answers late is late, and not dead.
//!
//! kube-apiserver answers an HTTP/2 request of a client that it does not know with the end of the connection (since 1.29, and
//! in patched older releases, against CVE-2023-44487). So a connection over which a stranger asked is never kept: neither
//! after a request without credentials, nor after one whose credentials were refused. Whoever was refused asks once more without
//! any: what it wants to know does not depend on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::failure::{BoxError, LocalError};
use super::kept::{Kept, News};
use super::metered::Metered;
use super::prober::{Event, What};
use super::request::Question;
use super::socket::{LocalOr, connect};
use crate::model::health::{Answered, Caller, FailReason, Outcome, Probe};
use crate::transport::failure::reason;
use crate::transport::readyz::{self, Credentials, Identity, UNAUTHORIZED, tells_readiness};

/// How long a process that lives may take to answer `/readyz`. A kube-apiserver asks its etcd for 2 s before it says
/// that it is unready, and whoever answers 3 s late is slow, not dead. Longer than this, and it is unready.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// HTTP/2 where the server has it: a ping is answered while a question is not.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

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

/// A connection over which nothing was asked yet.
pub(super) struct Shaken {
    kept: Box<Kept>,
    round_trip: Duration,
    handshake: Duration,
    /// The other end is an address of this node.
    pub(super) local: bool,
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

/// What a fresh probe needs to know besides of its connection.
pub(super) struct Asking {
    pub(super) target: Target,
    pub(super) identity: Identity,
    pub(super) started: Instant,
    /// After how long an answer is overdue.
    pub(super) limit: Duration,
    pub(super) waiting: Waiting,
    /// Is told when an answer is overdue.
    pub(super) overdue: mpsc::Sender<Event>,
}

/// A connection whose handshake failed is a failed probe.
pub(super) fn failed(asking: Asking, error: BoxError) -> Attempt {
    let shown = asking.identity.credentials.clone();
    let probe = local(error).map(|error| {
        let reason = reason(error.as_ref());
        tracing::debug!(address = %asking.target.address, %reason, ?error, "no connection for a probe");
        asking.probe(Outcome::Failed(reason), None, None)
    });
    Attempt { probe, kept: None, shown }
}

/// Asks for `/readyz` over a connection. Ends after [`PATIENCE`], or twice that and twice the limit where credentials are refused.
pub(super) async fn ask(asking: Asking, shaken: Shaken) -> Attempt {
    let shown = asking.identity.credentials.clone();
    let times = (shaken.round_trip, shaken.handshake, shaken.local);
    let (mut found, mut kept) = asking.readyz(shaken.kept, shown.as_ref()).await;
    let mut caller = if shown.is_some() { Caller::Authenticated } else { Caller::Anonymous };
    if found.status() == Some(UNAUTHORIZED) && shown.is_some() {
        (found, kept, caller) = match asking.as_stranger().await {
            Ok(found) => (found, None, Caller::Refused),
            Err(local) => return Attempt { probe: Err(local), kept: None, shown },
        };
    }
    let answered = found.status().map(|status| Answered { caller, readiness_known: tells_readiness(status) });
    if found.outcome() != Outcome::Ready {
        let (address, outcome) = (asking.target.address, found.outcome());
        tracing::debug!(%address, ?outcome, ?answered, "a fresh probe was not answered as ready");
    }
    let probe = Ok(asking.probe(found.outcome(), Some(times), answered));
    Attempt { probe, kept, shown }
}

impl Asking {
    fn probe(
        &self,
        outcome: Outcome,
        times: Option<(Duration, Duration, bool)>,
        answered: Option<Answered>,
    ) -> Probe {
        let (started, finished) = (self.started.into_std(), Instant::now().into_std());
        let (round_trip, handshake, local) = match times {
            Some((round_trip, handshake, local)) => (Some(round_trip), Some(handshake), Some(local)),
            None => (None, None, None),
        };
        Probe { started, finished, outcome, round_trip, handshake, local, answered }
    }

    /// Once more, without credentials: what is asked does not depend on them.
    async fn as_stranger(&self) -> Result<Found, LocalError> {
        match timeout(self.limit, open(&self.target, &self.identity.trust, None)).await {
            Ok(Ok(shaken)) => Ok(self.readyz(shaken.kept, None).await.0),
            Ok(Err(error)) => local(error).map(|error| Found::Failed(reason(error.as_ref()))),
            Err(_) => Ok(Found::Failed(FailReason::Timeout)),
        }
    }

    /// While there is no answer pings tell a process that is busy from one that is gone: hands that were shaken say nothing of a
    /// cable that was cut since. Over HTTP/1.1 there is no room for them.
    async fn readyz(
        &self,
        mut kept: Box<Kept>,
        credentials: Option<&Credentials>,
    ) -> (Found, Option<Box<Kept>>) {
        let _waits = self.waiting.enter();
        kept.ask(self.started, credentials.and_then(|credentials| credentials.authorization.as_ref()));
        let mut look = Instant::now() + self.limit;
        let answer_by = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            let news = tokio::select! {
                biased;
                news = kept.news() => news,
                () = sleep_until(look.min(answer_by)) => {
                    let now = Instant::now();
                    let silent = kept.pinged().is_some_and(|pinged| now >= pinged + self.limit)
                        || !kept.multiplexes();
                    if now >= answer_by {
                        kept.take_back();
                        let found = if silent { Found::Failed(FailReason::Timeout) } else { Found::Late };
                        return (found, (kept.multiplexes() && !silent).then_some(kept));
                    }
                    if silent && !std::mem::replace(&mut told, true) {
                        let what = What::DialOverdue { began: self.started, connected: true };
                        let _ = self.overdue.send(Event { backend: self.target.address, what }).await;
                    }
                    kept.ping(now);
                    look = now + self.limit;
                    continue;
                }
            };
            match news {
                News::Answer { status, last, .. } => {
                    return (Found::Status(status), (!last).then_some(kept));
                }
                News::Unanswered(_, reason) | News::Ended(reason) => {
                    return (Found::Failed(reason), None);
                }
                News::Pong(_) => {}
            }
        }
    }
}

/// Opens a connection, without credentials, over which `/readyz` is never asked for: its end, its silence and its pings tell of the
/// apiserver what can be told without being known to it.
pub(super) async fn hold(target: Target, trust: Arc<ClientConfig>, limit: Duration) -> Option<Box<Kept>> {
    let opened = timeout(limit, open(&target, &trust, None)).await;
    match opened.unwrap_or_else(|late| Err(io::Error::from(late).into())) {
        Ok(shaken) => Some(shaken.kept),
        Err(error) => {
            // Probes tell what there is to say of it.
            tracing::debug!(address = %target.address, ?error, "no connection to keep could be opened");
            None
        }
    }
}

/// TCP and TLS. It takes as long as the kernel has patience: an answer may be late.
pub(super) async fn dial(
    target: Target,
    identity: Identity,
    connected: Arc<AtomicBool>,
) -> Result<Shaken, BoxError> {
    let tls = readyz::settings(&identity.trust, identity.credentials.as_ref(), PROTOCOLS);
    shake_hands(&target, tls, &connected).await
}

async fn open(
    target: &Target,
    trust: &ClientConfig,
    credentials: Option<&Credentials>,
) -> Result<Shaken, BoxError> {
    let tls = readyz::settings(trust, credentials, PROTOCOLS);
    shake_hands(target, tls, &AtomicBool::default()).await
}

async fn shake_hands(
    target: &Target,
    tls: Arc<ClientConfig>,
    connected: &AtomicBool,
) -> Result<Shaken, BoxError> {
    let started = Instant::now();
    let stream = connect(target.address).await?;
    connected.store(true, Ordering::Relaxed);
    let round_trip = started.elapsed();
    let local = stream.local_addr().is_ok_and(|own| own.ip() == target.address.ip());
    let stream = TlsConnector::from(tls).connect(target.name.clone(), Metered::new(stream)).await?;
    let kept = Box::new(Kept::open(stream, target.question.clone()).await?);
    Ok(Shaken { kept, round_trip, handshake: started.elapsed(), local })
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
