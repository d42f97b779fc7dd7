//! An HTTP connection over which `GET /readyz` is sent again and again, or `OPTIONS *`, to which any HTTP server answers
//! (RFC 9110, section 9.3.7: a "ping", or "no-op").
//!
//! In: an established TLS stream. Out: where requests are sent, a future that drives the connection, and a [`Response`] per
//! request. HTTP/2 is that of h2 itself: a request can be cancelled alone, a ping goes beside it, and no body is read.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::authority;
use crate::model::health::FailReason;
use crate::transport::AGENT;
use crate::transport::failure::reason;

/// HTTP/2: what a server may send unasked. Its body is never read.
const WINDOW: u32 = 16 * 1024;
/// The headers of an answer. Real ones take about 500 bytes.
const HEADERS: u32 = 8 * 1024;
/// HTTP/1.1: the body must be read before the next request. `ok`, or a line for each of about 50 checks.
const BODY: usize = 8 * 1024;
/// How long that may take once the status is known.
const BODY_TIME: Duration = Duration::from_millis(50);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The requests to the server with a certain name.
#[derive(Clone, Debug)]
pub(crate) struct ProbeRequests {
    readyz: Uri,
    ping: Uri,
    host: HeaderValue,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProbeRequest<'a> {
    /// `GET /readyz`, with this `Authorization` header.
    Readyz(Option<&'a HeaderValue>),
    /// `OPTIONS *`. It carries no credentials: kube-apiserver answers it before authentication.
    Ping,
}

impl ProbeRequests {
    pub(crate) fn new(name: &ServerName<'_>) -> Self {
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

    /// As HTTP/2 wants it: the URI names the server.
    fn http2(&self, wanted: ProbeRequest<'_>) -> Request<()> {
        let uri = match wanted {
            ProbeRequest::Readyz(_) => &self.readyz,
            ProbeRequest::Ping => &self.ping,
        };
        let mut request = request(wanted, uri.clone(), None, ());
        *request.version_mut() = Version::HTTP_2;
        request
    }

    /// As HTTP/1.1 wants it: a header names the server.
    fn http1(&self, wanted: ProbeRequest<'_>) -> Request<Empty<Bytes>> {
        let path = match wanted {
            ProbeRequest::Readyz(_) => Uri::from_static("/readyz"),
            ProbeRequest::Ping => Uri::from_static("*"),
        };
        request(wanted, path, Some(&self.host), Empty::new())
    }
}

fn request<B>(wanted: ProbeRequest<'_>, uri: Uri, host: Option<&HeaderValue>, body: B) -> Request<B> {
    let (method, authorization) = match wanted {
        ProbeRequest::Readyz(authorization) => (Method::GET, authorization),
        ProbeRequest::Ping => (Method::OPTIONS, None),
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host.clone());
    }
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    request
}

/// The head of an answer.
pub(crate) struct Response {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The server closes the connection after it.
    pub(crate) last: bool,
}

/// An answer that may be waited for; dropping it cancels the request.
pub(crate) type PendingResponse = BoxFuture<'static, Result<Response, BoxError>>;

/// Drives the connection to its end. The reason is missing where the server closed it in good order.
pub(crate) type Driver = BoxFuture<'static, Option<FailReason>>;

/// The connection. Nothing happens on it while its [`Driver`] is not polled.
pub(crate) enum ProbeSender {
    Http2(h2::client::SendRequest<Bytes>),
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
}

impl ProbeSender {
    /// Speaks HTTP/2 if the server chose it, else HTTP/1.1.
    pub(crate) async fn open<S>(stream: TlsStream<S>) -> Result<(Driver, Self), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .max_header_list_size(HEADERS)
                .max_concurrent_streams(0)
                .max_send_buffer_size(WINDOW as usize)
                .enable_push(false)
                .handshake(stream)
                .await?;
            let driver = connection.map(|ended| ended.err().map(|error| reason(&error)));
            Ok((driver.boxed(), Self::Http2(sender)))
        } else {
            let mut builder = hyper::client::conn::http1::Builder::new();
            builder.max_buf_size(HEADERS as usize).max_headers(64);
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
            let driver = connection.map(|ended| ended.err().map(|error| reason(&error)));
            Ok((driver.boxed(), Self::Http1(sender)))
        }
    }

    /// Whether several requests may be under way: HTTP/2.
    pub(crate) fn multiplexes(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Sends a request. HTTP/1.1 can only cancel it by closing the connection.
    pub(crate) fn send(&mut self, requests: &ProbeRequests, wanted: ProbeRequest<'_>) -> PendingResponse {
        match self {
            Self::Http2(sender) => request_http2(sender.clone(), requests.http2(wanted)).boxed(),
            Self::Http1(sender) => request_http1(sender.send_request(requests.http1(wanted))).boxed(),
        }
    }
}

/// Whether the server refused this request alone, which its process did.
pub(crate) fn is_stream_reset(error: &BoxError) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_reset() && error.is_remote())
}

/// Whether an HTTP/1 server will close the connection after this answer.
fn closes_after(version: Version, headers: &HeaderMap) -> bool {
    let says_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    version < Version::HTTP_11 || headers.get_all(CONNECTION).iter().any(says_close)
}

async fn request_http2(
    sender: h2::client::SendRequest<Bytes>,
    request: Request<()>,
) -> Result<Response, BoxError> {
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    // Dropping the body tells the server not to send it.
    Ok(Response { status: response.await?.status().as_u16(), last: false })
}

async fn request_http1(
    response: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
) -> Result<Response, BoxError> {
    let response = response.await?;
    let status = response.status().as_u16();
    let last = closes_after(response.version(), response.headers());
    let body = timeout(BODY_TIME, Limited::new(response.into_body(), BODY).collect()).await;
    Ok(Response { status, last: last || !matches!(body, Ok(Ok(_))) })
}
