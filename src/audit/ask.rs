//! One request to one server, which may be anybody: over plain TCP or verified TLS, with limits on time and size.
//!
//! In: an address, TLS settings, a [`Question`]. Out: an [`Answer`], or why there is none.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// One request, from the first packet to the end of what is read: a lost SYN (1 s) is survived.
pub const LIMIT: Duration = Duration::from_secs(3);
/// Of a body so much is read, in bytes. A server that sends more is cut off.
const BODY_BYTES: usize = 4 << 20;
/// Of a head, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// Whom to ask.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is verified, and by which name; plain TCP if it is `None`.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What to ask.
#[derive(Clone, Copy, Default)]
pub struct Question<'a> {
    /// Path and query.
    pub path: &'a str,
    /// The Authorization header.
    pub authorization: Option<&'a HeaderValue>,
    /// JSON: it makes the question a POST, which is how a review is asked for.
    pub review: Option<&'a str>,
    /// The status is all that is wanted: no body is read.
    pub status_only: bool,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The head.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// There was more of it than is read.
    pub cut: bool,
}

impl Answer {
    /// The body as text, as far as it is text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is something else.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing listens there.
    Refused,
    /// It could not be reached, or said nothing in time.
    Silent,
    /// TLS failed: the server is not whom it should be, refuses the client, or does not speak TLS.
    Tls,
    /// It ended the connection, or does not speak HTTP.
    Broken,
}

/// An answer that never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// What kind of failure it was.
    pub reason: Reason,
    /// One line.
    pub text: String,
}

impl Unanswered {
    fn silent() -> Self {
        let text = format!("no answer within {:.0} s", LIMIT.as_secs_f32());
        Self { reason: Reason::Silent, text }
    }

    fn of(error: &(dyn Error + 'static), otherwise: Reason) -> Self {
        let mut next = Some(error);
        let mut reason = otherwise;
        let mut text = error.to_string();
        while let Some(cause) = next {
            text = cause.to_string();
            if cause.is::<rustls::Error>() {
                reason = Reason::Tls;
                break;
            }
            next = match cause.downcast_ref::<std::io::Error>() {
                Some(io) => {
                    if io.kind() == std::io::ErrorKind::ConnectionRefused {
                        reason = Reason::Refused;
                    }
                    io.get_ref().map(|inner| inner as &(dyn Error + 'static))
                }
                None => cause.source(),
            };
        }
        let text = text.split(" (os error").next().unwrap_or_default();
        Self { reason, text: text.split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

/// GETs `path` without credentials. Ends within [`LIMIT`].
///
/// # Errors
/// [`Unanswered`], whatever went wrong.
pub async fn get(server: &Server, path: &str) -> Result<Answer, Unanswered> {
    ask(server, Question { path, ..Question::default() }).await
}

/// GETs the status of `path` without credentials, and no body. Ends within [`LIMIT`].
///
/// # Errors
/// [`Unanswered`], whatever went wrong.
pub async fn status(server: &Server, path: &str) -> Result<u16, Unanswered> {
    let question = Question { path, status_only: true, ..Question::default() };
    ask(server, question).await.map(|answer| answer.status)
}

/// Asks. Ends within [`LIMIT`].
///
/// # Errors
/// [`Unanswered`], whatever went wrong.
pub async fn ask(server: &Server, question: Question<'_>) -> Result<Answer, Unanswered> {
    timeout(LIMIT, exchange(server, question)).await.unwrap_or_else(|_| Err(Unanswered::silent()))
}

async fn exchange(server: &Server, question: Question<'_>) -> Result<Answer, Unanswered> {
    let stream =
        TcpStream::connect(server.address).await.map_err(|error| Unanswered::of(&error, Reason::Silent))?;
    match &server.tls {
        None => send(stream, &server.address.to_string(), question).await,
        Some((config, name)) => {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            // A resumed session would be that of whoever was shown before.
            config.resumption = Resumption::disabled();
            let stream = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await;
            let stream = stream.map_err(|error| Unanswered::of(&error, Reason::Tls))?;
            send(stream, &name.to_str(), question).await
        }
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    question: Question<'_>,
) -> Result<Answer, Unanswered> {
    let broken = |error: hyper::Error| Unanswered::of(&error, Reason::Broken);
    let opened = http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(broken)?;
    let request = request(host, question)
        .map_err(|error| Unanswered { reason: Reason::Broken, text: error.to_string() })?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, mut rest) = response.into_parts();
        let mut body = BytesMut::new();
        while !question.status_only
            && let Some(frame) = rest.frame().await
        {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            body.extend_from_slice(&data);
            if body.len() > BODY_BYTES {
                break;
            }
        }
        let cut = body.len() > BODY_BYTES;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.freeze(), cut })
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // It was closed; what arrived before may still be an answer.
            Ok(()) => exchange.await,
            Err(error) => Err(broken(error)),
        },
    }
}

fn request(host: &str, question: Question<'_>) -> http::Result<Request<Full<Bytes>>> {
    let method = if question.review.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder()
        .method(method)
        .uri(question.path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("apivip/", env!("CARGO_PKG_VERSION")));
    if let Some(value) = question.authorization {
        request = request.header(AUTHORIZATION, value);
    }
    if question.review.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::from(question.review.unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests;
