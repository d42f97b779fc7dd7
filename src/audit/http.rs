//! One HTTP request to one server, which may be anybody: over plain TCP or TLS, with limits on time and size.
//!
//! In: an address, TLS settings, an [`HttpRequest`]. Out: an [`HttpResponse`], or why there is none. `/readyz` is a path as any
//! other here: who may read it matters, and not what it says, which is for `transport::readyz` to ask.

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

use crate::transport::AGENT;

/// One request, from the first packet to the end of what is read: a lost SYN (1 s) is survived.
pub const LIMIT: Duration = Duration::from_secs(3);
/// Of a body so much is read, in bytes. A server that sends more is cut off.
const BODY_BYTES: usize = 4 << 20;
/// Of a head, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// The server that is asked.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is verified, and by which name; plain TCP if it is `None`.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// One request.
#[derive(Clone, Copy, Default)]
pub struct HttpRequest<'a> {
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
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The head.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// There was more of it than is read.
    pub cut: bool,
}

impl HttpResponse {
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
pub enum HttpErrorKind {
    /// Nothing listens there.
    Refused,
    /// It could not be reached, or said nothing in time.
    Silent,
    /// TLS failed: the server's certificate is not verified, it refuses the client, or does not speak TLS.
    Tls,
    /// It ended the connection, or does not speak HTTP.
    Broken,
}

/// An answer that never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// What kind of failure it was.
    pub reason: HttpErrorKind,
    /// One line.
    pub text: String,
}

impl HttpError {
    fn silent() -> Self {
        let text = format!("no answer within {:.0} s", LIMIT.as_secs_f32());
        Self { reason: HttpErrorKind::Silent, text }
    }

    fn of(error: &(dyn Error + 'static), otherwise: HttpErrorKind) -> Self {
        let mut next = Some(error);
        let mut reason = otherwise;
        let mut text = error.to_string();
        while let Some(cause) = next {
            text = cause.to_string();
            if cause.is::<rustls::Error>() {
                reason = HttpErrorKind::Tls;
                break;
            }
            next = match cause.downcast_ref::<std::io::Error>() {
                Some(io) => {
                    if io.kind() == std::io::ErrorKind::ConnectionRefused {
                        reason = HttpErrorKind::Refused;
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
/// [`HttpError`], whatever went wrong.
pub async fn get(server: &Server, path: &str) -> Result<HttpResponse, HttpError> {
    request(server, HttpRequest { path, ..HttpRequest::default() }).await
}

/// GETs the status of `path` without credentials, and no body. Ends within [`LIMIT`].
///
/// # Errors
/// [`HttpError`], whatever went wrong.
pub async fn status(server: &Server, path: &str) -> Result<u16, HttpError> {
    let wanted = HttpRequest { path, status_only: true, ..HttpRequest::default() };
    request(server, wanted).await.map(|answer| answer.status)
}

/// Asks. Ends within [`LIMIT`].
///
/// # Errors
/// [`HttpError`], whatever went wrong.
pub async fn request(server: &Server, wanted: HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
    timeout(LIMIT, exchange(server, wanted)).await.unwrap_or_else(|_| Err(HttpError::silent()))
}

async fn exchange(server: &Server, wanted: HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
    let stream = TcpStream::connect(server.address)
        .await
        .map_err(|error| HttpError::of(&error, HttpErrorKind::Silent))?;
    match &server.tls {
        None => send(stream, &server.address.to_string(), wanted).await,
        Some((config, name)) => {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            // A resumed session would be that of whoever was shown before.
            config.resumption = Resumption::disabled();
            let stream = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await;
            let stream = stream.map_err(|error| HttpError::of(&error, HttpErrorKind::Tls))?;
            send(stream, &name.to_str(), wanted).await
        }
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    wanted: HttpRequest<'_>,
) -> Result<HttpResponse, HttpError> {
    let broken = |error: hyper::Error| HttpError::of(&error, HttpErrorKind::Broken);
    let opened = http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(broken)?;
    let request = build_request(host, wanted)
        .map_err(|error| HttpError { reason: HttpErrorKind::Broken, text: error.to_string() })?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, mut rest) = response.into_parts();
        let mut body = BytesMut::new();
        while !wanted.status_only
            && let Some(frame) = rest.frame().await
        {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            body.extend_from_slice(&data);
            if body.len() > BODY_BYTES {
                break;
            }
        }
        let cut = body.len() > BODY_BYTES;
        Ok(HttpResponse { status: head.status.as_u16(), headers: head.headers, body: body.freeze(), cut })
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

fn build_request(host: &str, wanted: HttpRequest<'_>) -> http::Result<Request<Full<Bytes>>> {
    let method = if wanted.review.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder()
        .method(method)
        .uri(wanted.path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, AGENT);
    if let Some(value) = wanted.authorization {
        request = request.header(AUTHORIZATION, value);
    }
    if wanted.review.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::from(wanted.review.unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a server says to one client, and then it goes on with `more` until the client leaves.
    async fn response(head: &'static [u8], more: Option<&'static [u8]>) -> Result<HttpResponse, HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: listener.local_addr().unwrap(), tls: None };
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await?;
            stream.write_all(head).await?;
            while let Some(more) = more {
                stream.write_all(more).await?;
            }
            io::Result::Ok(())
        });
        let answer = get(&server, "/version").await;
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn response_is_read_to_its_end() {
        let answer = response(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 13\r\n\r\n{\"code\": 403}", None)
            .await
            .unwrap();
        assert_eq!((answer.status, answer.cut), (403, false));
        assert_eq!(answer.json()["code"], 403);
    }

    #[tokio::test]
    async fn endless_response_is_cut() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
        let answer = response(head, Some(&[b'x'; 4096])).await.unwrap();
        assert!(answer.cut && answer.body.len() < BODY_BYTES + (1 << 20));
        let endless =
            response(b"HTTP/1.1 200 OK\r\n", Some(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")).await;
        assert_eq!(endless.unwrap_err().reason, HttpErrorKind::Broken);
    }

    #[tokio::test]
    async fn response_that_is_no_http_is_an_error() {
        assert_eq!(
            response(b"SSH-2.0-OpenSSH\r\n\r\n", None).await.unwrap_err().reason,
            HttpErrorKind::Broken
        );
        assert_eq!(response(b"", None).await.unwrap_err().reason, HttpErrorKind::Broken);
    }

    #[tokio::test]
    async fn refused_and_silent_servers_have_different_errors() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: listener.local_addr().unwrap(), tls: None };
        let silent = get(&server, "/").await.unwrap_err();
        assert_eq!((silent.reason, silent.text.as_str()), (HttpErrorKind::Silent, "no answer within 3 s"));
        drop(listener);
        let refused = get(&server, "/").await.unwrap_err();
        assert_eq!((refused.reason, refused.text.as_str()), (HttpErrorKind::Refused, "Connection refused"));
    }

    #[tokio::test]
    async fn status_is_returned_before_the_body() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: listener.local_addr().unwrap(), tls: None };
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n").await?;
            stream.read_to_end(&mut Vec::new()).await
        });
        let wanted = HttpRequest { path: "/pods", status_only: true, ..HttpRequest::default() };
        assert_eq!(request(&server, wanted).await.unwrap().status, 401);
        assert!(serving.await.unwrap().is_ok(), "it hung up at once");
    }
}
