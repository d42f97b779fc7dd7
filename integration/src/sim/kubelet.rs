//! A simulated kubelet, made from the kubelet's documented behaviour. It can have any one mistake, also those that no
//! configuration of a real one has.
//!
//! In: certificates, whom it knows, and what is wrong with it. Out: it serves in a namespace, on 10250 and, if it is told
//! to, on 10255, until it is dropped. It answers 401 to whom it does not know, 403 to whom its authorizer refuses, and
//! knows `/pods`, `/healthz` and `/configz`. Client certificates, exec and logs are not simulated.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::body::AnswerBody;
use super::listen;
pub use super::manner::Manner;
use super::manner::{self, Serving};
use crate::netns::Namespace;
use crate::pki::KeyFiles;
use crate::tls;

/// Where a kubelet listens.
pub const PORT: u16 = 10_250;
/// Where it serves without TLS.
pub const READ_ONLY_PORT: u16 = 10_255;

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `authorization.mode: Webhook`: the users of [`Options::allowed`].
    Webhook,
    /// `authorization.mode: AlwaysAllow`.
    AlwaysAllow,
}

/// What it is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its serving certificate.
    pub files: KeyFiles,
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// The tokens that it knows (`authentication.webhook.enabled`).
    pub known: Vec<String>,
    /// Those of them that Webhook allows everything.
    pub allowed: Vec<String>,
    /// `authorization.mode`.
    pub mode: Mode,
    /// `readOnlyPort`.
    pub read_only: bool,
    /// What `/configz` says.
    pub configuration: Value,
    /// How it serves.
    pub manner: Manner,
}

impl Options {
    /// A good one: it refuses everybody whom it does not know, and its authorizer those whom it knows.
    pub fn good(files: KeyFiles, token: &str) -> Self {
        Self {
            files,
            anonymous: false,
            known: vec![token.to_owned()],
            allowed: Vec::new(),
            mode: Mode::Webhook,
            read_only: false,
            configuration: Value::Null,
            manner: Manner::Well,
        }
    }
}

/// A request that it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method and path.
    pub what: String,
    /// It carried an Authorization header.
    pub authorized: bool,
}

/// A running one.
#[derive(Debug)]
pub struct Kubelet {
    _serving: Serving,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What its tasks share.
struct Shared {
    options: Options,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Kubelet {
    /// Starts one on every IPv4 address of `node`. It answers when this returns.
    pub fn start(node: &Namespace, options: Options) -> Result<Self> {
        let runtime = manner::runtime()?;
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let acceptor = TlsAcceptor::from(tls::server_config(
            &options.files.certificate,
            &options.files.key,
            None,
            tls::ALPN_H2_AND_HTTP1,
        )?);
        let bind = |port| {
            node.within(|| {
                let _inside = runtime.enter();
                listen::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            })
        };
        let secure = bind(PORT)?;
        let plain = if options.read_only { Some(bind(READ_ONLY_PORT)?) } else { None };
        let shared = Arc::new(Shared { options, asked: Arc::clone(&asked) });
        if let Some(plain) = plain {
            let shared = Arc::clone(&shared);
            runtime.spawn(listen::accept_each(plain, move |stream, _| {
                tokio::spawn(serve(stream, Arc::clone(&shared), true));
            }));
        }
        runtime.spawn(listen::accept_each(secure, move |stream, _| {
            tokio::spawn(secured(stream, acceptor.clone(), Arc::clone(&shared)));
        }));
        Ok(Self { _serving: Serving::new(runtime), asked })
    }

    /// What it was asked so far, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn secured(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    if shared.options.manner.hung().await {
        return;
    }
    // A client that offers old TLS only is refused here.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    serve(stream, shared, false).await;
}

/// Everybody may ask everything of the read-only port.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>, open: bool) {
    let service = service_fn(|request| {
        let answer = answer(&request, &shared, open);
        async { Ok::<_, Infallible>(answer) }
    });
    // A client that is content leaves in the middle of a flood.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, shared: &Shared, open: bool) -> Response<AnswerBody> {
    let options = &shared.options;
    let path = request.uri().path();
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    shared
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Asked { what: format!("{} {path}", request.method()), authorized: header.is_some() });
    let token = header.and_then(|header| header.strip_prefix("Bearer "));
    let is_in = |tokens: &[String]| token.is_some_and(|token| tokens.iter().any(|known| known == token));
    let refused = match options.mode {
        _ if open => None,
        _ if !(is_in(&options.known) || header.is_none() && options.anonymous) => {
            Some((StatusCode::UNAUTHORIZED, "Unauthorized"))
        }
        Mode::Webhook if !is_in(&options.allowed) => Some((StatusCode::FORBIDDEN, "Forbidden")),
        _ => None,
    };
    let (status, text) = refused.map_or_else(
        || match path {
            "/healthz" => (StatusCode::OK, "ok".to_owned()),
            "/pods" => (
                StatusCode::OK,
                r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#.to_owned(),
            ),
            "/configz" => {
                (StatusCode::OK, serde_json::json!({"kubeletconfig": options.configuration}).to_string())
            }
            _ => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
        },
        |(status, text)| (status, text.to_owned()),
    );
    let body = options.manner.flood().unwrap_or_else(|| AnswerBody::Full(Some(Bytes::from(text))));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
