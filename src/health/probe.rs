//! One probe over a connection of its own: TCP, TLS, `GET /readyz`; and a connection that is opened to be kept without that
//! request.
//!
//! In: the target, the identity, and after how long TCP and TLS, or a ping, are overdue. Out: the result, and the
//! connection, if it can be kept. An answer is waited for longer than that: a backend that answers late is late, and
//! not dead. At most two handshakes are unfinished at a time, of which the oldest stays open for a late answer.
//!
//! kube-apiserver answers an HTTP/2 request of a client that it does not know with the end of the connection (since
//! 1.29, and in patched older releases, against CVE-2023-44487). So a connection over which an unauthenticated client
//! sent a request is never kept: neither after a request without credentials, nor after one whose credentials were
//! refused. After a refusal the request is sent once more without any: what the probe wants to know does not depend
//! on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, AbortRegistration};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::connection::{ConnectionEvent, ProbeConnection};
use super::evidence::ChallengeOutcome;
use super::socket::{BoxError, ConnectError, LocalError, ReadLimitedStream, connect};
use crate::model::health::{AuthResult, FailReason, ProbeOutcome, ProbeResult, ReadyzAnswer, Trigger};
use crate::model::types::Backend;
use crate::transport::failure::reason;
use crate::transport::readyz::kept_open::ProbeRequests;
use crate::transport::readyz::{self, Credentials, Identity, UNAUTHORIZED, tells_readiness};

/// How long a process that lives may take to answer `/readyz`. A kube-apiserver waits 2 s for its etcd before it says
/// that it is unready, and one that answers 3 s late is slow, not dead. Longer than this, and it is unready.
pub(super) const READYZ_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 where the server has it: a ping is answered while a request is not.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What a prober found.
#[derive(Debug)]
pub(super) struct ProberEvent {
    pub(super) backend: Backend,
    pub(super) what: ProberEventKind,
}

#[derive(Debug)]
pub(super) enum ProberEventKind {
    /// There is a sign of failure: the connection ended.
    Triggered(Instant, Trigger),
    /// Over the kept-open connection, the oldest request is overdue.
    RequestOverdue { asked: Instant, now: Instant, trigger: Trigger },
    /// A fresh probe that began then is overdue, or was aborted for a new one.
    ConnectOverdue { began: Instant, connected: bool },
    /// TCP and TLS were established.
    HandshakeCompleted { now: Instant, local: bool },
    /// Its host responded.
    HostResponded(Instant),
    /// A probe was decided.
    Probed(ProbeResult),
    /// A segment arrived from it on some connection, with data or without.
    SegmentReceived { now: Instant, data: bool },
    /// Clients' connections to it were challenged.
    Challenged(Instant, ChallengeOutcome),
}

/// The target of a probe.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) name: ServerName<'static>,
    pub(super) requests: ProbeRequests,
}

/// The end of one fresh probe.
pub(super) struct ProbeAttempt {
    /// What it found; the error if this node could not probe.
    pub(super) probe: Result<ProbeResult, LocalError>,
    /// The connection, if it stays open and is of use.
    pub(super) kept: Option<Box<ProbeConnection>>,
    /// The credentials that were shown first.
    pub(super) shown: Option<Credentials>,
}

/// How many fresh probes of one backend have completed the handshake and wait for `/readyz`.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingReadyz(Arc<AtomicUsize>);

impl PendingReadyz {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> PendingReadyzGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        PendingReadyzGuard(self.clone())
    }
}

/// One of them.
struct PendingReadyzGuard(PendingReadyz);

impl Drop for PendingReadyzGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that has completed TCP and TLS.
pub(super) struct Handshake {
    kept: Box<ProbeConnection>,
    round_trip: Duration,
    handshake: Duration,
    /// The other end is an address of this node.
    pub(super) local: bool,
}

/// The result of a `/readyz` request.
enum ReadyzResult {
    Status(u16),
    /// The process is alive and does not respond.
    Late,
    Failed(FailReason),
}

impl ReadyzResult {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Late | Self::Failed(_) => None,
        }
    }

    fn outcome(&self) -> ProbeOutcome {
        match self {
            Self::Status(status) => readyz::outcome(*status),
            Self::Late => ProbeOutcome::Unready,
            Self::Failed(reason) => ProbeOutcome::Failed(*reason),
        }
    }
}

/// The parameters of a fresh probe.
pub(super) struct ProbeTask {
    pub(super) target: Target,
    pub(super) identity: Identity,
    pub(super) started: Instant,
    /// After how long an answer is overdue.
    pub(super) limit: Duration,
    pub(super) waiting: PendingReadyz,
    /// Is notified when an answer is overdue.
    pub(super) overdue: mpsc::Sender<ProberEvent>,
}

/// A connection whose handshake failed is a failed probe.
pub(super) fn failed(task: ProbeTask, error: BoxError) -> ProbeAttempt {
    let shown = task.identity.credentials.clone();
    let probe = local(error).map(|error| {
        let reason = reason(error.as_ref());
        tracing::debug!(
            event = %"probe_connect_failed", backend = %task.target.address, %reason, ?error,
            "Failed to connect for a probe"
        );
        task.probe(ProbeOutcome::Failed(reason), None, None)
    });
    ProbeAttempt { probe, kept: None, shown }
}

/// Asks for `/readyz` over a connection. Ends after [`READYZ_TIMEOUT`], or twice that and twice the limit where
/// credentials are refused.
pub(super) async fn request_readyz(task: ProbeTask, handshake_result: Handshake) -> ProbeAttempt {
    let shown = task.identity.credentials.clone();
    let times = (handshake_result.round_trip, handshake_result.handshake, handshake_result.local);
    let (mut found, mut kept) = task.readyz(handshake_result.kept, shown.as_ref()).await;
    let mut auth = if shown.is_some() { AuthResult::Authenticated } else { AuthResult::Anonymous };
    if found.status() == Some(UNAUTHORIZED) && shown.is_some() {
        (found, kept, auth) = match task.without_credentials().await {
            Ok(found) => (found, None, AuthResult::Refused),
            Err(local) => return ProbeAttempt { probe: Err(local), kept: None, shown },
        };
    }
    let answered =
        found.status().map(|status| ReadyzAnswer { auth, readiness_known: tells_readiness(status) });
    if found.outcome() != ProbeOutcome::Ready {
        let (backend, outcome) = (task.target.address, found.outcome());
        tracing::debug!(
            event = %"probe_not_ready", %backend, ?outcome, ?answered,
            "Probe was not answered as ready"
        );
    }
    let probe = Ok(task.probe(found.outcome(), Some(times), answered));
    ProbeAttempt { probe, kept, shown }
}

impl ProbeTask {
    fn probe(
        &self,
        outcome: ProbeOutcome,
        times: Option<(Duration, Duration, bool)>,
        answered: Option<ReadyzAnswer>,
    ) -> ProbeResult {
        let (started, finished) = (self.started.into_std(), Instant::now().into_std());
        let (round_trip, handshake, local) = match times {
            Some((round_trip, handshake, local)) => (Some(round_trip), Some(handshake), Some(local)),
            None => (None, None, None),
        };
        ProbeResult { started, finished, outcome, round_trip, handshake, local, readyz: answered }
    }

    /// Once more, without credentials: `/readyz` does not depend on them.
    async fn without_credentials(&self) -> Result<ReadyzResult, LocalError> {
        match timeout(self.limit, open(&self.target, &self.identity.trust, None)).await {
            Ok(Ok(handshake_result)) => Ok(self.readyz(handshake_result.kept, None).await.0),
            Ok(Err(error)) => local(error).map(|error| ReadyzResult::Failed(reason(error.as_ref()))),
            Err(_) => Ok(ReadyzResult::Failed(FailReason::Timeout)),
        }
    }

    /// While there is no answer, pings tell a busy process from a dead one: a completed handshake says nothing of a
    /// cable that was cut since. Over HTTP/1.1 there is no room for them.
    async fn readyz(
        &self,
        mut kept: Box<ProbeConnection>,
        credentials: Option<&Credentials>,
    ) -> (ReadyzResult, Option<Box<ProbeConnection>>) {
        let _waits = self.waiting.enter();
        kept.request_readyz(
            self.started,
            credentials.and_then(|credentials| credentials.authorization.as_ref()),
        );
        let mut check_at = Instant::now() + self.limit;
        let answer_by = Instant::now() + READYZ_TIMEOUT;
        let mut reported = false;
        loop {
            let event = tokio::select! {
                biased;
                event = kept.next_event() => event,
                () = sleep_until(check_at.min(answer_by)) => {
                    let now = Instant::now();
                    let silent = kept.ping_sent().is_some_and(|pinged| now >= pinged + self.limit)
                        || !kept.multiplexes();
                    if now >= answer_by {
                        kept.cancel_readyz();
                        let found = if silent { ReadyzResult::Failed(FailReason::Timeout) } else { ReadyzResult::Late };
                        return (found, (kept.multiplexes() && !silent).then_some(kept));
                    }
                    if silent && !std::mem::replace(&mut reported, true) {
                        let what = ProberEventKind::ConnectOverdue { began: self.started, connected: true };
                        let _ = self.overdue.send(ProberEvent { backend: self.target.address, what }).await;
                    }
                    kept.ping(now);
                    check_at = now + self.limit;
                    continue;
                }
            };
            match event {
                ConnectionEvent::Readyz { status, last, .. } => {
                    return (ReadyzResult::Status(status), (!last).then_some(kept));
                }
                ConnectionEvent::ReadyzFailed(_, reason) | ConnectionEvent::Closed(reason) => {
                    return (ReadyzResult::Failed(reason), None);
                }
                ConnectionEvent::Pong(_) => {}
            }
        }
    }
}

/// Opens a connection, without credentials, over which `/readyz` is never requested: its end, its silence and its
/// pings show of the API server what can be seen without authentication.
pub(super) async fn open_ping_connection(
    target: Target,
    trust: Arc<ClientConfig>,
    limit: Duration,
) -> Option<Box<ProbeConnection>> {
    let opened = timeout(limit, open(&target, &trust, None)).await;
    match opened.unwrap_or_else(|late| Err(io::Error::from(late).into())) {
        Ok(handshake_result) => Some(handshake_result.kept),
        Err(error) => {
            // Probes report it.
            tracing::debug!(
                event = %"probe_connection_failed", backend = %target.address, ?error,
                "Failed to open connection to keep"
            );
            None
        }
    }
}

/// TCP and TLS. It takes as long as the kernel has patience: an answer may be late.
pub(super) async fn connect_and_handshake(
    target: Target,
    identity: Identity,
    connected: Arc<AtomicBool>,
) -> Result<Handshake, BoxError> {
    let tls = readyz::settings(&identity.trust, identity.credentials.as_ref(), PROTOCOLS);
    handshake(&target, tls, &connected).await
}

async fn open(
    target: &Target,
    trust: &ClientConfig,
    credentials: Option<&Credentials>,
) -> Result<Handshake, BoxError> {
    let tls = readyz::settings(trust, credentials, PROTOCOLS);
    handshake(target, tls, &AtomicBool::default()).await
}

async fn handshake(
    target: &Target,
    tls: Arc<ClientConfig>,
    connected: &AtomicBool,
) -> Result<Handshake, BoxError> {
    let started = Instant::now();
    let stream = connect(target.address).await?;
    connected.store(true, Ordering::Relaxed);
    let round_trip = started.elapsed();
    let local = stream.local_addr().is_ok_and(|own| own.ip() == target.address.ip());
    let stream = TlsConnector::from(tls).connect(target.name.clone(), ReadLimitedStream::new(stream)).await?;
    let kept = Box::new(ProbeConnection::open(stream, target.requests.clone()).await?);
    Ok(Handshake { kept, round_trip, handshake: started.elapsed(), local })
}

fn local(error: BoxError) -> Result<BoxError, LocalError> {
    match error.downcast::<ConnectError>() {
        Ok(error) => match *error {
            ConnectError::Local(local) => Err(local),
            peer => Ok(Box::new(peer)),
        },
        Err(error) => Ok(error),
    }
}

/// Further ones would learn nothing sooner, and a stopped process has to answer each of them when it continues.
const MAX_UNFINISHED: usize = 2;
/// One whose TCP was established waits for a stopped process, and its answer comes over it. Another one is useful
/// only in case the host was replaced.
const CONNECTED: Duration = Duration::from_secs(10);
/// Whether TCP was established is reported again so often: the first SYN may have been lost.
const AGAIN: Duration = Duration::from_secs(1);

/// One of them.
struct UnfinishedHandshake {
    began: Instant,
    overdue: Instant,
    report_at: Instant,
    connected: Arc<AtomicBool>,
    abort: AbortHandle,
}

impl UnfinishedHandshake {
    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// When there is room for another one: for one that a decision waits for, and for a scheduled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextSlot {
    pub(super) urgent: Instant,
    pub(super) later: Instant,
}

/// See the module. The oldest comes first.
#[derive(Default)]
pub(super) struct UnfinishedHandshakes(Vec<UnfinishedHandshake>);

impl UnfinishedHandshakes {
    /// When there is room for another one, at the cost of the younger one if need be. `now` at the earliest.
    pub(super) fn next_slot(&self, now: Instant) -> NextSlot {
        match self.0.get(MAX_UNFINISHED - 1) {
            None => NextSlot { urgent: now, later: now },
            Some(younger) if younger.is_connected() => {
                NextSlot { urgent: younger.overdue, later: younger.began + CONNECTED }
            }
            Some(younger) => NextSlot { urgent: younger.overdue, later: younger.overdue },
        }
    }

    /// Aborts the younger one for another one. Returns when it began, and whether TCP was established.
    pub(super) fn abort_younger(&mut self) -> Option<(Instant, bool)> {
        if self.0.len() < MAX_UNFINISHED {
            return None;
        }
        let younger = self.0.pop()?;
        younger.abort.abort();
        Some((younger.began, younger.is_connected()))
    }

    /// One begins. Returns where to note that TCP was established, and what ends it.
    pub(super) fn begin(&mut self, now: Instant, limit: Duration) -> (Arc<AtomicBool>, AbortRegistration) {
        let (abort, registration) = AbortHandle::new_pair();
        let connected = Arc::new(AtomicBool::new(false));
        let overdue = now + limit;
        self.0.push(UnfinishedHandshake {
            began: now,
            overdue,
            report_at: overdue,
            connected: Arc::clone(&connected),
            abort,
        });
        (connected, registration)
    }

    /// One ended by itself.
    pub(super) fn ended(&mut self, began: Instant) {
        self.0.retain(|dial| dial.began != began);
    }

    /// When the next one has to be reported.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.0.iter().map(|dial| dial.report_at).min()
    }

    /// Those that are overdue, and whether TCP was established; each second again.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(Instant, bool)> {
        let due = self.0.iter_mut().filter(|dial| dial.report_at <= now);
        due.map(|dial| {
            dial.report_at = now + AGAIN;
            (dial.began, dial.is_connected())
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_the_most_and_the_oldest_stays() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let limit = Duration::from_millis(300);
        let mut handshakes = UnfinishedHandshakes::default();
        let free = |handshakes: &UnfinishedHandshakes, now| {
            let NextSlot { urgent, later } = handshakes.next_slot(now);
            (urgent, later)
        };
        assert_eq!((free(&handshakes, begin), handshakes.abort_younger()), ((begin, begin), None));
        handshakes.begin(begin, limit);
        assert_eq!((free(&handshakes, at(50)), handshakes.abort_younger()), ((at(50), at(50)), None));
        let (connected, _) = handshakes.begin(at(50), limit);
        assert_eq!(free(&handshakes, at(60)), (at(350), at(350)), "once the younger one is overdue");
        assert_eq!(handshakes.overdue(at(299)), []);
        assert_eq!(handshakes.overdue(at(300)), [(begin, false)]);
        assert_eq!(handshakes.next_overdue(), Some(at(350)));
        connected.store(true, Ordering::Relaxed);
        assert_eq!(free(&handshakes, at(60)), (at(350), at(10_050)), "where TCP came about, there is time");
        assert_eq!(handshakes.overdue(at(1300)), [(begin, false), (at(50), true)], "each second again");
        assert_eq!(handshakes.abort_younger(), Some((at(50), true)));
        handshakes.begin(at(1300), limit);
        handshakes.ended(begin);
        assert_eq!((free(&handshakes, at(1400)), handshakes.abort_younger()), ((at(1400), at(1400)), None));
    }
}
