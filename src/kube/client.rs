//! One session's HTTP client: authentication, base path and status codes around the [`Dialer`].
//!
//! In: [`Access`] as it is at this moment: a renewal makes a new session. Out: response bodies of successful requests, or one [`ApiError`].

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::ResolvesClientCert;
use tokio::time::timeout;

use super::candidates::Candidates;
use super::decode::Status;
use super::dialer::Dialer;
use super::error::{ApiError, DialError};
use super::resource::Asked;
use crate::process::clock::unix_now;
use crate::transport::access::{self, Access, Authorization, Expiry, Token};
use crate::transport::explain::{Expected, explain};
use crate::transport::readyz;
use crate::transport::words::one_line;

/// How long it may take to connect (15 s, see the dialer) and to get the head of the answer: for that, an apiserver
/// waits 3 s if its cache must reach a resourceVersion first. Dead connections are noticed sooner, by PING and
/// keepalive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The usual pause between two PINGs of HTTP/2. A process that hangs is noticed within it and the 5 s that an answer may take, where
/// probes have not noticed it before; a host that is gone, by the kernel's keepalive, which costs the apiserver nothing, within
/// seconds (see the dialer).
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long the answer to one may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 flow-control window per stream, in bytes: what one watch can make us hold before it is read.
const WINDOW: u32 = 256 << 10;

/// How much of a failed request's body is read for its message, in bytes.
const MESSAGE_BYTES: usize = 16 << 10;

type Http = legacy::Client<Dialer, Full<Bytes>>;

/// Sends requests over connections of its own: dropping it closes them.
pub(super) struct Client {
    http: Http,
    certificate: Arc<dyn ResolvesClientCert>,
    access: Access,
    authorization: Option<Authorization>,
    has_plugin: bool,
    token: Option<Arc<Token>>,
    expected: Expected,
    credentials: String,
    expiry: Expiry,
    changes_after: Option<Duration>,
}

impl Client {
    /// Reads the credentials. Nothing is dialled before the first request; then a PING is sent at each `ping_interval`.
    pub(super) async fn open(
        access: &Access,
        candidates: &Arc<Mutex<Candidates>>,
        ping_interval: Duration,
    ) -> Result<Self, ApiError> {
        let prepared = access::prepare(access).await.map_err(ApiError::Prepare)?;
        let certificate = Arc::clone(&prepared.tls.client_auth_cert_resolver);
        let expected = Expected { name: access.tls_name().to_owned(), ca: access.ca().to_owned() };
        let dialer = Dialer::new(
            prepared.tls,
            access.server_name(),
            access.server().clone(),
            expected.clone(),
            Arc::clone(candidates),
        );
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(ping_interval)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(2 * WINDOW)
            .build(dialer);
        Ok(Self {
            http,
            access: access.clone(),
            certificate,
            authorization: prepared.authorization,
            has_plugin: access.plugin().is_some(),
            token: access.token(),
            expected,
            credentials: access.source().to_owned(),
            expiry: Expiry {
                client_certificate: prepared.end.or(access.expiry().client_certificate),
                ..access.expiry()
            },
            changes_after: prepared.end.and_then(|end| access::changes_after(end, unix_now())),
        })
    }

    /// After how long a credential plugin should be asked for another certificate.
    pub(super) fn changes_after(&self) -> Option<Duration> {
        self.changes_after
    }

    /// Whether [`Self::credentials`] may be other ones later: those in files that make other connections end the session.
    pub(super) fn renews_credentials(&self) -> bool {
        self.has_plugin || self.token.is_some()
    }

    /// What is shown to apiservers, as it is now. A plugin whose token has ended is run for it, on a thread of its own.
    pub(super) async fn credentials(&self) -> Result<Option<readyz::Credentials>, String> {
        let authorization = match (&self.token, &self.authorization) {
            (Some(token), _) => Some(token.latest()),
            (None, Some(authorization)) => Some(authorization.header().await?),
            (None, None) => None,
        };
        Ok(readyz::Credentials::new(Some(Arc::clone(&self.certificate)), authorization))
    }

    /// Sends a GET. Returns once the head of a successful answer is there.
    pub(super) async fn get(&self, asked: &Asked, target: &str) -> Result<Response<Incoming>, ApiError> {
        self.exchange(asked, Method::GET, target, Bytes::new(), StatusCode::OK).await
    }

    /// Sends a POST that makes something and returns what was made, if that is not longer than any review.
    pub(super) async fn post(&self, asked: &Asked, target: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let response = self.exchange(asked, Method::POST, target, body, StatusCode::CREATED).await?;
        let body = Limited::new(response.into_body(), MESSAGE_BYTES).collect().await;
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(self.broken(asked, error.as_ref())),
        }
    }

    async fn exchange(
        &self,
        asked: &Asked,
        method: Method,
        target: &str,
        body: Bytes,
        expected: StatusCode,
    ) -> Result<Response<Incoming>, ApiError> {
        let request = self.request(method, target, body).await.map_err(ApiError::Prepare)?;
        let response = match timeout(HEAD_TIMEOUT, self.http.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(asked, &error)),
            Err(_) => return Err(ApiError::Silent { asked: asked.clone(), limit: HEAD_TIMEOUT }),
        };
        if response.status() != expected {
            return Err(self.refused(asked, response).await);
        }
        match response.headers().get(CONTENT_TYPE) {
            Some(kind) if !kind.as_bytes().starts_with(b"application/json") => {
                let kind = one_line(&String::from_utf8_lossy(kind.as_bytes()));
                let problem = format!("answered with {kind} instead of JSON: this is no apiserver");
                Err(ApiError::Protocol { asked: asked.clone(), problem })
            }
            _ => Ok(response),
        }
    }

    /// What a failure of the connection means.
    pub(super) fn broken(&self, asked: &Asked, error: &(dyn Error + 'static)) -> ApiError {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(dial) = cause.downcast_ref::<DialError>() {
                return ApiError::Dial(dial.clone());
            }
            next = cause.source();
        }
        ApiError::Broken { asked: asked.clone(), cause: explain(error, &self.expected) }
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = self
            .access
            .request(method, target)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(concat!("apivip/", env!("CARGO_PKG_VERSION"))));
        let authorization = match (&self.token, &self.authorization) {
            (Some(token), _) => Some(token.header()),
            (None, Some(authorization)) => Some(authorization.header().await?),
            (None, None) => None,
        };
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request.body(Full::new(body)).map_err(|error| format!("make a request for {target}: {error}"))
    }

    async fn refused(&self, asked: &Asked, response: Response<Incoming>) -> ApiError {
        let code = response.status();
        let status = read_status(response).await;
        let message = match &*status.message {
            "" => code.canonical_reason().unwrap_or("no reason given").to_owned(),
            message => one_line(message),
        };
        let asked = asked.clone();
        // Sent as 504, and as 500 by servers before 1.19.
        if status.message.contains("Too large resource version") {
            return ApiError::FromTheFuture { asked, message };
        }
        match code {
            StatusCode::UNAUTHORIZED => ApiError::Unauthorized {
                asked,
                credentials: format!("{}{}", self.credentials, self.expiry.remark()),
            },
            StatusCode::FORBIDDEN => ApiError::Forbidden { asked, message },
            StatusCode::NOT_FOUND => ApiError::NotFound { asked },
            StatusCode::GONE => ApiError::Expired { asked },
            code => ApiError::Status { asked, code: code.as_u16(), message },
        }
    }
}

/// The Status object that a failed request comes with; empty if it comes with something else.
async fn read_status(response: Response<Incoming>) -> Status {
    let body = Limited::new(response.into_body(), MESSAGE_BYTES).collect();
    match timeout(HEAD_TIMEOUT, body).await {
        Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
        Ok(Err(_)) | Err(_) => Status::default(),
    }
}
