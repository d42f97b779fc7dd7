//! An open connection to an apiserver, over which it is asked again and again, or which only shows that it lives.
//!
//! In: a TLS stream. Out: [`News`], one at a time. It drives the protocol itself, so nothing happens on it while
//! nobody waits for its news. Deadlines are the owner's.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::failure::BoxError;
use super::metered::{Allowance, Metered};
use super::request::{Question, is_last};
use super::socket::ask_by_keepalive;
use crate::model::health::FailReason;
use crate::transport::failure::reason;

/// HTTP/2: what a server may send unasked. Its body is never read.
const WINDOW: u32 = 16 * 1024;
/// The headers of an answer. Real ones take about 500 bytes.
const HEADERS: u32 = 8 * 1024;
/// HTTP/1.1: the body must be read before the next question. `ok`, or a line for each of about 50 checks.
const BODY: usize = 8 * 1024;
/// How long that may take once the status is known.
const BODY_TIME: Duration = Duration::from_millis(50);

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum News {
    /// `OPTIONS *` of that time was answered, with whatever status.
    Pong(Instant),
    /// `/readyz`, asked at `asked`, was answered.
    Answer {
        asked: Instant,
        /// With this HTTP status.
        status: u16,
        /// The server closes the connection after it.
        last: bool,
    },
    /// `/readyz`, asked at that time, will not be answered.
    Unanswered(Instant, FailReason),
    /// The connection is over.
    Ended(FailReason),
}

struct Answer {
    status: u16,
    last: bool,
}

type Answering = BoxFuture<'static, Result<Answer, BoxError>>;

enum Requests {
    H2(h2::client::SendRequest<Bytes>),
    H1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
}

/// The connection.
pub(super) struct Kept {
    driver: BoxFuture<'static, Option<FailReason>>,
    /// The reason is missing where the server closed it in good order.
    ended: Option<Option<FailReason>>,
    requests: Requests,
    question: Question,
    allowance: Allowance,
    ends: Option<(SocketAddr, SocketAddr)>,
    pinged: Option<(Instant, Answering)>,
    asked: Option<(Instant, Answering)>,
}

impl Kept {
    /// Speaks HTTP/2 if the server chose it, else HTTP/1.1.
    pub(super) async fn open(stream: TlsStream<Metered>, question: Question) -> Result<Self, BoxError> {
        let (metered, tls) = stream.get_ref();
        let (allowance, tcp) = (metered.allowance(), metered.stream());
        ask_by_keepalive(tcp)?;
        let ends = tcp.local_addr().ok().zip(tcp.peer_addr().ok());
        let (driver, requests) =
            if tls.alpn_protocol() == Some(b"h2") { open_h2(stream).await? } else { open_h1(stream).await? };
        Ok(Self { driver, ended: None, requests, question, allowance, ends, pinged: None, asked: None })
    }

    /// This node's end of the connection, and the apiserver's.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends
    }

    /// Whether several requests may be under way: HTTP/2.
    pub(super) fn multiplexes(&self) -> bool {
        matches!(self.requests, Requests::H2(_))
    }

    /// Whether a ping can be sent now.
    pub(super) fn may_ping(&self) -> bool {
        self.pinged.is_none() && (self.multiplexes() || self.asked.is_none())
    }

    /// Whether a ping is under way that leaves no room for a question.
    pub(super) fn is_busy(&self) -> bool {
        self.pinged.is_some() && !self.multiplexes()
    }

    /// When the ping was sent that is not answered yet.
    pub(super) fn pinged(&self) -> Option<Instant> {
        self.pinged.as_ref().map(|(at, _)| *at)
    }

    /// When `/readyz` was asked for, if that is not answered yet.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked.as_ref().map(|(at, _)| *at)
    }

    /// Sends `OPTIONS *`, if it can be sent now.
    pub(super) fn ping(&mut self, now: Instant) {
        if !self.may_ping() {
            return;
        }
        self.allowance.renew();
        let answer = match &mut self.requests {
            Requests::H2(sender) => ask_h2(sender.clone(), self.question.ping_h2()).boxed(),
            Requests::H1(sender) => ask_h1(sender.send_request(self.question.ping_h1())).boxed(),
        };
        self.pinged = Some((now, answer));
    }

    /// Asks for `/readyz`, as the bearer of what the header says. An earlier question is taken back.
    pub(super) fn ask(&mut self, now: Instant, authorization: Option<&HeaderValue>) {
        self.allowance.renew();
        let answer = match &mut self.requests {
            Requests::H2(sender) => ask_h2(sender.clone(), self.question.readyz_h2(authorization)).boxed(),
            Requests::H1(sender) => {
                ask_h1(sender.send_request(self.question.readyz_h1(authorization))).boxed()
            }
        };
        self.asked = Some((now, answer));
    }

    /// Takes the question back. HTTP/1.1 can only end its connection with it.
    pub(super) fn take_back(&mut self) {
        self.asked = None;
    }

    /// The next news. Losing this future loses nothing.
    pub(super) async fn news(&mut self) -> News {
        poll_fn(|cx| self.poll_news(cx)).await
    }

    /// What was received before the end is told before the end.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
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
                Ok(Answer { status, last }) => News::Answer { asked, status, last },
                Err(error) => News::Unanswered(asked, self.why(&error)),
            });
        }
        if let Some((sent, answer)) = &mut self.pinged
            && let Poll::Ready(result) = answer.poll_unpin(cx)
        {
            let sent = *sent;
            self.pinged = None;
            match result {
                Ok(_) => return Poll::Ready(News::Pong(sent)),
                // The server refused this request alone, which its process did.
                Err(error) if is_refusal(&error) => return Poll::Ready(News::Pong(sent)),
                Err(error) => self.ended = Some(Some(self.why(&error))),
            }
        }
        match self.ended {
            Some(reason) => Poll::Ready(News::Ended(reason.unwrap_or(FailReason::Reset))),
            None => Poll::Pending,
        }
    }

    /// The failure of the connection, if there is one, says more than what a question heard of it.
    fn why(&self, error: &BoxError) -> FailReason {
        self.ended.flatten().unwrap_or_else(|| reason(error.as_ref()))
    }
}

fn is_refusal(error: &BoxError) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_reset() && error.is_remote())
}

type Opened = (BoxFuture<'static, Option<FailReason>>, Requests);

async fn open_h2(stream: TlsStream<Metered>) -> Result<Opened, BoxError> {
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

async fn open_h1(stream: TlsStream<Metered>) -> Result<Opened, BoxError> {
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

async fn ask_h2(
    sender: h2::client::SendRequest<Bytes>,
    request: http::Request<()>,
) -> Result<Answer, BoxError> {
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    // Dropping the body tells the server not to send it.
    Ok(Answer { status: response.await?.status().as_u16(), last: false })
}

async fn ask_h1(
    response: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
) -> Result<Answer, BoxError> {
    let response = response.await?;
    let status = response.status().as_u16();
    let last = is_last(response.version(), response.headers());
    let body = timeout(BODY_TIME, Limited::new(response.into_body(), BODY).collect()).await;
    Ok(Answer { status, last: last || !matches!(body, Ok(Ok(_))) })
}
