//! An open connection to an API server, over which requests are sent again and again, or which only shows that it lives.
//!
//! In: a TLS stream. Out: connection events, one at a time. It drives HTTP itself, so nothing happens on it while nobody
//! waits for its events. The requests are `GET /readyz`, and `OPTIONS *`, to which any HTTP server answers (RFC 9110, section
//! 9.3.7: a "ping", or "no-op"). A connection that was opened with credentials is asked for `/readyz`. One without carries
//! pings only, since an API server ends a connection over which an unauthenticated client asks. Pings keep either open:
//! kube-apiserver ends a connection that had no request for 90 s.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::socket::{BoxError, ReadAllowance, ReadLimitedStream, enable_keepalive};
use crate::model::health::FailReason;
use crate::transport::failure::reason;
use crate::transport::readyz::{Credentials, authority};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("apivip/", env!("CARGO_PKG_VERSION")));

/// The requests to the server with a certain name.
#[derive(Clone, Debug)]
pub(super) struct ProbeRequests {
    readyz: Uri,
    ping: Uri,
    host: HeaderValue,
}

impl ProbeRequests {
    pub(super) fn new(name: &ServerName<'_>) -> Self {
        let authority = authority(name);
        let uri =
            |path| Uri::builder().scheme("https").authority(authority.as_str()).path_and_query(path).build();
        Self {
            // Every name that TLS takes is an authority of HTTP, too.
            readyz: uri("/readyz")
                .unwrap_or_else(|_| Uri::from_static("https://kubernetes.default.svc/readyz")),
            ping: uri("*").unwrap_or_else(|_| Uri::from_static("*")),
            host: HeaderValue::from_str(&authority)
                .unwrap_or(HeaderValue::from_static("kubernetes.default.svc")),
        }
    }

    /// `GET /readyz` as HTTP/2 wants it.
    pub(super) fn readyz_h2(&self, authorization: Option<&HeaderValue>) -> Request<()> {
        let mut request = h2(Method::GET, &self.readyz);
        add_headers(request.headers_mut(), authorization);
        request
    }

    /// `GET /readyz` as HTTP/1.1 wants it.
    pub(super) fn readyz_h1<B: bytes::Buf>(&self, authorization: Option<&HeaderValue>) -> Request<Empty<B>> {
        let mut request = self.h1(Method::GET, Uri::from_static("/readyz"));
        add_headers(request.headers_mut(), authorization);
        request
    }

    /// `OPTIONS *` as HTTP/2 wants it. It carries no credentials: kube-apiserver answers it before authentication.
    pub(super) fn ping_h2(&self) -> Request<()> {
        let mut request = h2(Method::OPTIONS, &self.ping);
        add_headers(request.headers_mut(), None);
        request
    }

    /// `OPTIONS *` as HTTP/1.1 wants it.
    pub(super) fn ping_h1<B: bytes::Buf>(&self) -> Request<Empty<B>> {
        let mut request = self.h1(Method::OPTIONS, Uri::from_static("*"));
        add_headers(request.headers_mut(), None);
        request
    }

    fn h1<B: bytes::Buf>(&self, method: Method, uri: Uri) -> Request<Empty<B>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }
}

fn h2(method: Method, uri: &Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    *request.version_mut() = Version::HTTP_2;
    request
}

fn add_headers(headers: &mut HeaderMap, authorization: Option<&HeaderValue>) {
    headers.insert(USER_AGENT, AGENT);
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
}

/// Whether an HTTP/1 server will close the connection after this answer.
pub(super) fn closes_after(version: Version, headers: &HeaderMap) -> bool {
    let says_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    version < Version::HTTP_11 || headers.get_all(CONNECTION).iter().any(says_close)
}

/// HTTP/2: what a server may send unasked. Its body is never read.
const WINDOW: u32 = 16 * 1024;
/// The headers of an answer. Real ones take about 500 bytes.
const HEADERS: u32 = 8 * 1024;
/// HTTP/1.1: the body must be read before the next request. `ok`, or a line for each of about 50 checks.
const BODY: usize = 8 * 1024;
/// How long that may take once the status is known.
const BODY_TIME: Duration = Duration::from_millis(50);

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

struct Response {
    status: u16,
    last: bool,
}

type PendingResponse = BoxFuture<'static, Result<Response, BoxError>>;

enum Requests {
    H2(h2::client::SendRequest<Bytes>),
    H1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
}

/// The connection.
pub(super) struct ProbeConnection {
    driver: BoxFuture<'static, Option<FailReason>>,
    /// The reason is missing where the server closed it in good order.
    ended: Option<Option<FailReason>>,
    requests: Requests,
    http_requests: ProbeRequests,
    allowance: ReadAllowance,
    addresses: Option<(SocketAddr, SocketAddr)>,
    pinged: Option<(Instant, PendingResponse)>,
    asked: Option<(Instant, PendingResponse)>,
}

impl ProbeConnection {
    /// Speaks HTTP/2 if the server chose it, else HTTP/1.1.
    pub(super) async fn open(
        stream: TlsStream<ReadLimitedStream>,
        http_requests: ProbeRequests,
    ) -> Result<Self, BoxError> {
        let (metered, tls) = stream.get_ref();
        let (allowance, tcp) = (metered.allowance(), metered.stream());
        enable_keepalive(tcp)?;
        let addresses = tcp.local_addr().ok().zip(tcp.peer_addr().ok());
        let (driver, requests) =
            if tls.alpn_protocol() == Some(b"h2") { open_h2(stream).await? } else { open_h1(stream).await? };
        Ok(Self {
            driver,
            ended: None,
            requests,
            http_requests,
            allowance,
            addresses,
            pinged: None,
            asked: None,
        })
    }

    /// This node's end of the connection, and the apiserver's.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.addresses
    }

    /// Whether several requests may be under way: HTTP/2.
    pub(super) fn multiplexes(&self) -> bool {
        matches!(self.requests, Requests::H2(_))
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
        let answer = match &mut self.requests {
            Requests::H2(sender) => request_h2(sender.clone(), self.http_requests.ping_h2()).boxed(),
            Requests::H1(sender) => request_h1(sender.send_request(self.http_requests.ping_h1())).boxed(),
        };
        self.pinged = Some((now, answer));
    }

    /// Requests `/readyz` with this `Authorization` header. An earlier request is cancelled.
    pub(super) fn request_readyz(&mut self, now: Instant, authorization: Option<&HeaderValue>) {
        self.allowance.renew();
        let answer = match &mut self.requests {
            Requests::H2(sender) => {
                request_h2(sender.clone(), self.http_requests.readyz_h2(authorization)).boxed()
            }
            Requests::H1(sender) => {
                request_h1(sender.send_request(self.http_requests.readyz_h1(authorization))).boxed()
            }
        };
        self.asked = Some((now, answer));
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

fn is_stream_reset(error: &BoxError) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_reset() && error.is_remote())
}

type Opened = (BoxFuture<'static, Option<FailReason>>, Requests);

async fn open_h2(stream: TlsStream<ReadLimitedStream>) -> Result<Opened, BoxError> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(0)
        .max_send_buffer_size(WINDOW as usize)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let driver = async move {
        match connection.await {
            Ok(()) => None,
            Err(error) => Some(reason(&error)),
        }
    };
    Ok((driver.boxed(), Requests::H2(sender)))
}

async fn open_h1(stream: TlsStream<ReadLimitedStream>) -> Result<Opened, BoxError> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEADERS as usize).max_headers(64);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let driver = async move {
        match connection.await {
            Ok(()) => None,
            Err(error) => Some(reason(&error)),
        }
    };
    Ok((driver.boxed(), Requests::H1(sender)))
}

async fn request_h2(
    sender: h2::client::SendRequest<Bytes>,
    request: http::Request<()>,
) -> Result<Response, BoxError> {
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    // Dropping the body tells the server not to send it.
    Ok(Response { status: response.await?.status().as_u16(), last: false })
}

async fn request_h1(
    response: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
) -> Result<Response, BoxError> {
    let response = response.await?;
    let status = response.status().as_u16();
    let last = closes_after(response.version(), response.headers());
    let body = timeout(BODY_TIME, Limited::new(response.into_body(), BODY).collect()).await;
    Ok(Response { status, last: last || !matches!(body, Ok(Ok(_))) })
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
