//! One request on its way to the real server, and its answer on the way back.
//!
//! In: a client's request. Out: the upstream answer, translated where the path asks for it. Without an upstream
//! answer the client's stream is broken, not answered: a proxy's own 502 would be mistaken for the server's word.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::lines::LinesBody;
use super::translate::{self, Translation};
use crate::sim::access_log::{AccessLog, What};
use crate::sim::https::{Outgoing, Sender};

/// What belongs to one hop only.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// A client and the upstream connection that is its own.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) log: AccessLog,
    pub(super) sender: Mutex<Sender>,
}

/// Passes one request on.
pub(super) async fn forward(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> io::Result<Response<AnswerBody>> {
    client.log.write(client.peer, client.local, logged(&request));
    let translation = translate::of_path(request.uri().path());
    let watch = translation != Translation::None && is_watch(request.uri().query().unwrap_or_default());
    let request = outgoing(request, &translation, client.peer).await?;
    let answer = send(&client, request).await?;
    let (mut head, body) = answer.into_parts();
    remove_hop_by_hop(&mut head.headers);
    if translation == Translation::None || !head.status.is_success() {
        return Ok(Response::from_parts(head, body.map_err(io::Error::other).boxed_unsync()));
    }
    head.headers.remove(header::CONTENT_LENGTH);
    let body = match watch {
        true => LinesBody::new(body).boxed_unsync(),
        false => {
            let whole = body.collect().await.map_err(io::Error::other)?.to_bytes();
            Full::from(translate::answer(&whole)).map_err(|never| match never {}).boxed_unsync()
        }
    };
    Ok(Response::from_parts(head, body))
}

/// Held only until the answer begins: with HTTP/2 other streams go on meanwhile.
async fn send(client: &Client, mut request: Request<Outgoing>) -> io::Result<Response<Incoming>> {
    let clone = match &mut *client.sender.lock().await {
        Sender::Http2(sender) => sender.clone(),
        http1 => {
            request_line_for_http1(&mut request);
            return http1.send(request).await.map_err(io::Error::other);
        }
    };
    request.headers_mut().remove(header::HOST);
    Sender::Http2(clone).send(request).await.map_err(io::Error::other)
}

async fn outgoing(
    request: Request<Incoming>,
    translation: &Translation,
    peer: SocketAddr,
) -> io::Result<Request<Outgoing>> {
    let (mut head, body) = request.into_parts();
    remove_hop_by_hop(&mut head.headers);
    head.uri = upstream_uri(&head, translation)?;
    head.version = http::Version::default();
    forwarded_for(&mut head.headers, peer);
    if *translation == Translation::None {
        return Ok(Request::from_parts(head, Either::Right(body)));
    }
    // Only plain JSON can be translated.
    head.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    head.headers.remove(header::ACCEPT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    let whole = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Request::from_parts(head, Either::Left(Full::from(translate::request(&whole)))))
}

/// Absolute, with the authority that the client used.
fn upstream_uri(head: &Parts, translation: &Translation) -> io::Result<Uri> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("localhost");
    let path = match translation {
        Translation::Slices(path) => path.as_str(),
        _ => head.uri.path(),
    };
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("https://{authority}{path}{query}").parse().map_err(io::Error::other)
}

/// HTTP/1.1 has the authority in a header and the bare path in the request line.
fn request_line_for_http1(request: &mut Request<Outgoing>) {
    if let Some(Ok(host)) = request.uri().authority().map(|a| HeaderValue::from_str(a.as_str())) {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
}

/// The real server writes this address into its audit log.
fn forwarded_for(headers: &mut HeaderMap, peer: SocketAddr) {
    if let Ok(value) = HeaderValue::from_str(&peer.ip().to_string()) {
        headers.append(HeaderName::from_static("x-forwarded-for"), value);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| matches!(pair, "watch" | "watch=true" | "watch=1"))
}

fn logged(request: &Request<Incoming>) -> What {
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    What::Request {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        version: format!("{:?}", request.version()),
        user_agent: agent.unwrap_or_default().to_owned(),
    }
}
