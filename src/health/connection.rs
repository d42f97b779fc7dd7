//! An open connection to an API server, over which requests are sent again and again, or which only shows that it lives.
//!
//! In: a TLS stream. Out: connection events, one at a time. It drives HTTP itself, so nothing happens on it while nobody
//! waits for its events. A connection that was opened with credentials is asked for `/readyz`. One without carries pings
//! only, since an API server ends a connection over which an unauthenticated client asks. Pings keep either open:
//! kube-apiserver ends a connection that had no request for 90 s.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use futures_util::FutureExt;
use http::HeaderValue;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::socket::{BoxError, ReadAllowance, ReadLimitedStream, enable_keepalive};
use crate::model::health::FailReason;
use crate::transport::failure::reason;
use crate::transport::readyz::Credentials;
use crate::transport::readyz::kept_open::{
    Driver, PendingResponse, ProbeRequest, ProbeRequests, ProbeSender, Response, is_stream_reset,
};

/// An event on the connection.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    /// `OPTIONS *` of that time was answered, with whatever status.
    Pong(Instant),
    /// `/readyz`, requested at `asked`, was answered.
    Readyz {
        asked: Instant,
        /// With this HTTP status.
        status: u16,
        /// The server closes the connection after it.
        last: bool,
    },
    /// `/readyz`, requested at that time, failed.
    ReadyzFailed(Instant, FailReason),
    /// The connection is over.
    Closed(FailReason),
}

/// The connection.
pub(super) struct ProbeConnection {
    driver: Driver,
    /// The reason is missing where the server closed it in good order.
    ended: Option<Option<FailReason>>,
    sender: ProbeSender,
    requests: ProbeRequests,
    allowance: ReadAllowance,
    addresses: Option<(SocketAddr, SocketAddr)>,
    pinged: Option<(Instant, PendingResponse)>,
    asked: Option<(Instant, PendingResponse)>,
}

impl ProbeConnection {
    /// Speaks HTTP/2 if the server chose it, else HTTP/1.1.
    pub(super) async fn open(
        stream: TlsStream<ReadLimitedStream>,
        requests: ProbeRequests,
    ) -> Result<Self, BoxError> {
        let (metered, _) = stream.get_ref();
        let (allowance, tcp) = (metered.allowance(), metered.stream());
        enable_keepalive(tcp)?;
        let addresses = tcp.local_addr().ok().zip(tcp.peer_addr().ok());
        let (driver, sender) = ProbeSender::open(stream).await?;
        Ok(Self { driver, ended: None, sender, requests, allowance, addresses, pinged: None, asked: None })
    }

    /// This node's end of the connection, and the apiserver's.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.addresses
    }

    /// Whether several requests may be under way: HTTP/2.
    pub(super) fn multiplexes(&self) -> bool {
        self.sender.multiplexes()
    }

    /// Whether a ping can be sent now.
    pub(super) fn can_ping(&self) -> bool {
        self.pinged.is_none() && (self.multiplexes() || self.asked.is_none())
    }

    /// Whether a ping is under way that leaves no room for a request.
    pub(super) fn blocks_readyz(&self) -> bool {
        self.pinged.is_some() && !self.multiplexes()
    }

    /// When the ping was sent that is not answered yet.
    pub(super) fn ping_sent(&self) -> Option<Instant> {
        self.pinged.as_ref().map(|(at, _)| *at)
    }

    /// When `/readyz` was requested, if that is not answered yet.
    pub(super) fn readyz_requested(&self) -> Option<Instant> {
        self.asked.as_ref().map(|(at, _)| *at)
    }

    /// Sends `OPTIONS *`, if it can be sent now.
    pub(super) fn ping(&mut self, now: Instant) {
        if !self.can_ping() {
            return;
        }
        self.allowance.renew();
        self.pinged = Some((now, self.sender.send(&self.requests, ProbeRequest::Ping)));
    }

    /// Requests `/readyz` with this `Authorization` header. An earlier request is cancelled.
    pub(super) fn request_readyz(&mut self, now: Instant, authorization: Option<&HeaderValue>) {
        self.allowance.renew();
        self.asked = Some((now, self.sender.send(&self.requests, ProbeRequest::Readyz(authorization))));
    }

    /// Cancels the request. HTTP/1.1 can only close its connection for that.
    pub(super) fn cancel_readyz(&mut self) {
        self.asked = None;
    }

    /// The next news. Cancel safe.
    pub(super) async fn next_event(&mut self) -> ConnectionEvent {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// What was received before the end is reported before the end.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionEvent> {
        if self.ended.is_none()
            && let Poll::Ready(reason) = self.driver.poll_unpin(cx)
        {
            self.ended = Some(reason);
        }
        if let Some((asked, answer)) = &mut self.asked
            && let Poll::Ready(result) = answer.poll_unpin(cx)
        {
            let asked = *asked;
            self.asked = None;
            return Poll::Ready(match result {
                Ok(Response { status, last }) => ConnectionEvent::Readyz { asked, status, last },
                Err(error) => ConnectionEvent::ReadyzFailed(asked, self.failure(&error)),
            });
        }
        if let Some((sent, answer)) = &mut self.pinged
            && let Poll::Ready(result) = answer.poll_unpin(cx)
        {
            let sent = *sent;
            self.pinged = None;
            match result {
                Ok(_) => return Poll::Ready(ConnectionEvent::Pong(sent)),
                // The server refused this request alone, which its process did.
                Err(error) if is_stream_reset(&error) => return Poll::Ready(ConnectionEvent::Pong(sent)),
                Err(error) => self.ended = Some(Some(self.failure(&error))),
            }
        }
        match self.ended {
            Some(reason) => Poll::Ready(ConnectionEvent::Closed(reason.unwrap_or(FailReason::Reset))),
            None => Poll::Pending,
        }
    }

    /// The failure of the connection, if there is one, is more specific than the error of a request.
    fn failure(&self, error: &BoxError) -> FailReason {
        self.ended.flatten().unwrap_or_else(|| reason(error.as_ref()))
    }
}

/// Certificates are often renewed on all nodes at once. Each node waits so long at the most.
const RENEWAL_SPREAD: Duration = Duration::from_secs(5);
/// When a try to replace the connection is over, with or without another one.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What the kept-open connection is doing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionState {
    /// A ping can be sent.
    pub(super) can_ping: bool,
    /// `/readyz` is requested and not answered.
    pub(super) readyz_pending: bool,
    /// A ping is under way that leaves no room for a request: HTTP/1.1.
    pub(super) blocks_readyz: bool,
    /// It carries pings only, or is silent: `/readyz` takes a fresh probe.
    pub(super) ping_only: bool,
    /// The connection of a fresh probe should take its place from then on.
    pub(super) renew: Option<StdInstant>,
}

/// The connection and its deadlines.
pub(super) struct HeldConnection {
    pub(super) kept: Box<ProbeConnection>,
    pub(super) since: Instant,
    pub(super) pong_by: Option<Instant>,
    pub(super) answer_by: Option<Instant>,
    /// When a ping is to be sent beside a request that is not answered.
    pub(super) ping_at: Option<Instant>,
    /// A ping, or a request that leaves no room for one, is overdue.
    pub(super) silent: bool,
    /// The host does not acknowledge the kernel's keepalive.
    pub(super) keepalive_lost: bool,
    credentials: Option<Credentials>,
    renew_at: Option<Instant>,
}

impl HeldConnection {
    /// Kept from `now` on, and opened with those credentials, or to carry pings only.
    pub(super) fn new(kept: Box<ProbeConnection>, credentials: Option<Credentials>, now: Instant) -> Self {
        Self {
            kept,
            since: now,
            pong_by: None,
            answer_by: None,
            ping_at: None,
            silent: false,
            keepalive_lost: false,
            credentials,
            renew_at: None,
        }
    }

    /// When something is overdue next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.pong_by, self.answer_by, self.ping_at].into_iter().flatten().min()
    }

    /// Whether any other connection is more useful.
    pub(super) fn is_silent(&self) -> bool {
        self.silent || self.keepalive_lost
    }

    /// Whether it carries pings only.
    pub(super) fn is_ping_only(&self) -> bool {
        self.credentials.is_none()
    }

    /// Whether another connection would use credentials that this one does not. `usable` are the credentials as they are now.
    pub(super) fn is_outdated(&self, usable: Option<&Credentials>) -> bool {
        match (&self.credentials, usable) {
            (None, Some(_)) => true,
            (Some(credentials), Some(usable)) => !usable.connects_like(credentials),
            (_, None) => false,
        }
    }

    /// The credentials changed.
    pub(super) fn credentials_changed(&mut self, usable: Option<&Credentials>, now: Instant, chance: f64) {
        if self.is_outdated(usable) {
            let at = now + RENEWAL_SPREAD.mul_f64(chance);
            self.renew_at = Some(self.renew_at.map_or(at, |known| known.min(at)));
        }
    }

    /// A connection that may replace it was started.
    pub(super) fn replacement_begun(&mut self, now: Instant) {
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = Some(now + RENEWAL_TIMEOUT);
        }
    }

    /// Its state, as the schedule needs it.
    pub(super) fn state(&self, usable: Option<&Credentials>) -> ConnectionState {
        ConnectionState {
            can_ping: self.kept.can_ping(),
            readyz_pending: self.kept.readyz_requested().is_some(),
            blocks_readyz: self.kept.blocks_readyz(),
            ping_only: self.is_ping_only() || self.is_silent(),
            renew: self.renew_at.filter(|_| usable.is_some()).map(Instant::into_std),
        }
    }
}
