//! The connections of one HTTP client: one of HTTP/2 for all its requests, or of HTTP/1.1 one for each that is under way.
//!
//! In: a [`Dialer`], and requests. Out: responses, whose bodies are read as they come. Which of the two the server speaks is
//! known once a connection is established (ALPN), so requests wait for one dial and share what comes of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::dialer::{DialError, DialOrder, Dialer};

/// How long the acknowledgement of a PING may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 flow-control window per stream, in bytes: what one watch can make us hold before it is read.
const WINDOW: u32 = 256 << 10;

/// A connection of HTTP/2 takes no other request after so long without one. Those under way on it go on.
const REUSE_LIMIT: Duration = Duration::from_secs(90);

/// What the port of a URI is without one.
const HTTPS: u16 = 443;

/// Dropping it closes them.
pub(super) struct Connections<O> {
    dialer: Dialer<O>,
    ping_interval: Duration,
    open: Mutex<Vec<Sender>>,
    /// Locked while a connection is dialled. When the last dial failed, and why.
    dialling: tokio::sync::Mutex<Option<(Instant, DialError)>>,
}

/// Why there is no response.
pub(super) enum SendError {
    /// No address could be connected to.
    Dial(DialError),
    /// The connection failed.
    Broken(hyper::Error),
}

/// Where the requests of one connection are handed in.
enum Sender {
    /// With the time of the last one.
    Http2(http2::SendRequest<Full<Bytes>>, Instant),
    Http1(http1::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Whether it takes no request any more.
    fn is_over(&self) -> bool {
        match self {
            Self::Http2(sender, last) => sender.is_closed() || last.elapsed() > REUSE_LIMIT,
            Self::Http1(sender) => sender.is_closed(),
        }
    }

    /// Whether it takes a request now. HTTP/1.1 does once the last response was read.
    fn is_ready(&self) -> bool {
        match self {
            Self::Http2(sender, _) => sender.is_ready(),
            Self::Http1(sender) => sender.is_ready(),
        }
    }

    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Self::Http2(sender, _) => sender.try_send_request(request).await,
            Self::Http1(sender) => {
                use_origin_form(&mut request);
                sender.try_send_request(request).await
            }
        }
    }
}

impl<O: DialOrder> Connections<O> {
    /// Nothing is dialled before the first request; then a PING is sent at each `ping_interval`.
    pub(super) fn new(dialer: Dialer<O>, ping_interval: Duration) -> Self {
        let (open, dialling) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { dialer, ping_interval, open, dialling }
    }

    /// Sends a request with an absolute URI. Returns once the head of the response is there.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        let uri = request.uri().clone();
        loop {
            let (mut sender, is_reused) = match self.take() {
                Some(sender) => (sender, true),
                None => self.take_or_dial().await?,
            };
            match sender.send(request).await {
                Ok(response) => {
                    if let Sender::Http1(_) = sender {
                        self.open().push(sender);
                    }
                    return Ok(response);
                }
                Err(mut error) => match error.take_message().filter(|_| is_reused) {
                    // It ended before the request was on its way.
                    Some(unsent) => {
                        request = unsent;
                        *request.uri_mut() = uri.clone();
                    }
                    None => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    /// A connection that takes a request. One of HTTP/2 stays for others.
    fn take(&self) -> Option<Sender> {
        let mut open = self.open();
        open.retain(|sender| !sender.is_over());
        let at = open.iter().rposition(Sender::is_ready)?;
        if let Sender::Http2(sender, last) = &mut open[at] {
            *last = Instant::now();
            return Some(Sender::Http2(sender.clone(), *last));
        }
        Some(open.swap_remove(at))
    }

    /// Dials, unless a dial of another request is under way: then its result counts for this one, too.
    async fn take_or_dial(&self) -> Result<(Sender, bool), SendError> {
        let begin = Instant::now();
        let mut dialling = self.dialling.lock().await;
        if let Some(sender) = self.take() {
            return Ok((sender, true));
        }
        match &*dialling {
            Some((at, error)) if *at > begin => return Err(SendError::Dial(error.clone())),
            _ => {}
        }
        let stream = match self.dialer.dial().await {
            Ok(stream) => stream,
            Err(error) => {
                *dialling = Some((Instant::now(), error.clone()));
                return Err(SendError::Dial(error));
            }
        };
        let sender = self.start(stream).await.map_err(SendError::Broken)?;
        if let Sender::Http2(shared, last) = &sender {
            self.open().push(Sender::Http2(shared.clone(), *last));
        }
        Ok((sender, false))
    }

    /// Starts HTTP, and a task that ends with the connection.
    async fn start(&self, stream: TlsStream<TcpStream>) -> hyper::Result<Sender> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        if is_http2 {
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(self.ping_interval)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(2 * WINDOW)
                .handshake(stream)
                .await?;
            let ended = drive(connection);
            match sender.ready().await {
                Ok(()) => Ok(Sender::Http2(sender, Instant::now())),
                Err(error) => Err(ended.await.unwrap_or(error)),
            }
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            let ended = drive(connection);
            match sender.ready().await {
                Ok(()) => Ok(Sender::Http1(sender)),
                Err(error) => Err(ended.await.unwrap_or(error)),
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drives a connection to its end. Returns where the error arrives that ended it: the sender of its requests only tells that
/// it is over.
fn drive(
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
) -> oneshot::Receiver<hyper::Error> {
    let (sender, ended) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            let _ = sender.send(error);
        }
    });
    ended
}

/// HTTP/1.1 has the path alone in its first line, and the host in a header (RFC 9112, section 3.2.1).
fn use_origin_form(request: &mut Request<Full<Bytes>>) {
    let uri = request.uri();
    let host = match (uri.host().unwrap_or_default(), uri.port_u16()) {
        (host, None | Some(HTTPS)) => HeaderValue::from_str(host),
        (host, Some(port)) => HeaderValue::from_str(&format!("{host}:{port}")),
    };
    let path = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    *request.uri_mut() = path;
    if let Ok(host) = host {
        request.headers_mut().entry(HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests;
