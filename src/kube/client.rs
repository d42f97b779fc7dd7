//! Requests to the API as one session makes them: what a status and a failure mean, each as one readable line.
//!
//! In: [`Access`] as it is at this moment: a renewal makes a new session. Out: response bodies of successful
//! requests, or one [`ApiError`]. Text that a server sent is cleaned and cut before it becomes part of a line.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::candidates::Candidates;
use super::decode::{DecodeError, LineTooLong, Status};
use super::resource::{RequestInfo, Resource};
use crate::transport::access::Access;
use crate::transport::dialer::DialError;
use crate::transport::http_client::{HEAD_TIMEOUT, HttpClient, RequestError};
use crate::transport::text::one_line;

/// How much of a failed request's body is read for its message, in bytes.
const MESSAGE_BYTES: usize = 16 << 10;

/// The client of one session: dropping it closes its connections.
pub(super) struct Client {
    http: HttpClient<Candidates>,
}

impl Client {
    /// Reads the credentials. Nothing is dialled before the first request; then a PING is sent at each `ping_interval`.
    pub(super) async fn open(
        access: &Access,
        candidates: &Arc<Mutex<Candidates>>,
        ping_interval: Duration,
    ) -> Result<Self, ApiError> {
        let http = HttpClient::open(access, candidates, ping_interval).await.map_err(ApiError::Prepare)?;
        Ok(Self { http })
    }

    /// The connection and what it shows.
    pub(super) fn http(&self) -> &HttpClient<Candidates> {
        &self.http
    }

    /// Sends a GET. Returns once the head of a successful answer is there.
    pub(super) async fn get(
        &self,
        request: &RequestInfo,
        target: &str,
    ) -> Result<Response<Incoming>, ApiError> {
        self.exchange(request, Method::GET, target, Bytes::new(), StatusCode::OK).await
    }

    /// Sends a POST that makes something and returns what was made, if that is not longer than any review.
    pub(super) async fn post(
        &self,
        request: &RequestInfo,
        target: &str,
        body: Bytes,
    ) -> Result<Bytes, ApiError> {
        let response = self.exchange(request, Method::POST, target, body, StatusCode::CREATED).await?;
        let body = Limited::new(response.into_body(), MESSAGE_BYTES).collect().await;
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(self.connection_error(request, error.as_ref())),
        }
    }

    async fn exchange(
        &self,
        request: &RequestInfo,
        method: Method,
        target: &str,
        body: Bytes,
        expected: StatusCode,
    ) -> Result<Response<Incoming>, ApiError> {
        let response =
            self.http.send(method, target, body).await.map_err(|error| api_error(request, error))?;
        if response.status() != expected {
            return Err(self.status_error(request, response).await);
        }
        match response.headers().get(CONTENT_TYPE) {
            Some(kind) if !kind.as_bytes().starts_with(b"application/json") => {
                let kind = one_line(&String::from_utf8_lossy(kind.as_bytes()));
                let problem = format!("answered with {kind} instead of JSON: this is not an API server");
                Err(ApiError::Protocol { request: request.clone(), problem })
            }
            _ => Ok(response),
        }
    }

    /// What a failure of the connection means.
    pub(super) fn connection_error(&self, request: &RequestInfo, error: &(dyn Error + 'static)) -> ApiError {
        api_error(request, self.http.connection_error(error))
    }

    async fn status_error(&self, request: &RequestInfo, response: Response<Incoming>) -> ApiError {
        let code = response.status();
        let status = read_status(response).await;
        let message = match &*status.message {
            "" => code.canonical_reason().unwrap_or("no reason given").to_owned(),
            message => one_line(message),
        };
        let request = request.clone();
        // Sent as 504, and as 500 by servers before 1.19.
        if status.message.contains("Too large resource version") {
            return ApiError::TooLargeResourceVersion { request, message };
        }
        match code {
            StatusCode::UNAUTHORIZED => {
                ApiError::Unauthorized { request, credentials: self.http.credentials_source() }
            }
            StatusCode::FORBIDDEN => ApiError::Forbidden { request, message },
            StatusCode::NOT_FOUND => ApiError::NotFound { request },
            StatusCode::GONE => ApiError::Expired { request },
            code => ApiError::Status { request, code: code.as_u16(), message },
        }
    }
}

fn api_error(request: &RequestInfo, error: RequestError) -> ApiError {
    match error {
        RequestError::Prepare(cause) => ApiError::Prepare(cause),
        RequestError::Dial(error) => ApiError::Dial(error),
        RequestError::Broken(cause) => ApiError::Connection { request: request.clone(), cause },
        RequestError::Timeout(limit) => ApiError::Timeout { request: request.clone(), limit },
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

/// Why a session with an apiserver ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("prepare the connection: {0}")]
    Prepare(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{request}: the connection failed: {cause}")]
    Connection { request: RequestInfo, cause: String },
    #[error("{request}: no answer within {} s", limit.as_secs())]
    Timeout { request: RequestInfo, limit: Duration },
    #[error("{request}: the server does not accept the credentials (401); check {credentials}")]
    Unauthorized { request: RequestInfo, credentials: String },
    #[error(
        "{request}: not allowed (403); bind a Role in namespace {} that grants list and watch on {} \
         to this user: {message}",
        request.namespace, request.resource.rbac_name()
    )]
    Forbidden { request: RequestInfo, message: String },
    #[error("{request}: the server does not have this resource (404){}", version_hint(request.resource))]
    NotFound { request: RequestInfo },
    #[error("{request}: the server no longer has the requested resourceVersion (410)")]
    Expired { request: RequestInfo },
    #[error("{request}: the server does not have the requested resourceVersion yet: {message}")]
    TooLargeResourceVersion { request: RequestInfo, message: String },
    #[error("{request}: the server answered {code}: {message}")]
    Status { request: RequestInfo, code: u16, message: String },
    #[error("{request}: the server {problem}")]
    Protocol { request: RequestInfo, problem: String },
    #[error("connected through the virtual IP; switching to an endpoint")]
    ThroughVip,
    #[error("the certificate of the credential plugin expires soon; running the plugin for the next one")]
    CertificateExpiring,
}

impl ApiError {
    /// The collection whose request was answered with this, if only that one is concerned: the connection stands, and
    /// another collection may still be read over it.
    pub(crate) fn refused_resource(&self) -> Option<Resource> {
        match self {
            Self::Forbidden { request, .. }
            | Self::NotFound { request }
            | Self::Expired { request }
            | Self::TooLargeResourceVersion { request, .. }
            | Self::Status { request, .. }
            | Self::Protocol { request, .. } => Some(request.resource),
            _ => None,
        }
    }

    /// The server did answer.
    pub(crate) fn is_response(&self) -> bool {
        self.refused_resource().is_some() || matches!(self, Self::Unauthorized { .. })
    }

    pub(crate) fn decode(request: &RequestInfo, error: &DecodeError) -> Self {
        Self::Protocol { request: request.clone(), problem: one_line(&error.to_string()) }
    }

    pub(crate) fn too_long(request: &RequestInfo, error: LineTooLong) -> Self {
        let problem = format!("sent more than {} MiB as one object", error.limit >> 20);
        Self::Protocol { request: request.clone(), problem }
    }
}

/// Which servers have a collection that not all have.
fn version_hint(resource: Resource) -> &'static str {
    match resource {
        Resource::Service => "",
        Resource::EndpointSlices => ": Kubernetes 1.21 or later is needed",
    }
}
