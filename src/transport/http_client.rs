//! The HTTP client of one session: authentication and deadlines around its [`Connections`].
//!
//! In: [`Access`] as it is at this moment: a renewal makes a new client. Out: responses as they come, or a
//! [`RequestError`]. What a status means is for the caller to say.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::client::ResolvesClientCert;
use tokio::time::timeout;

use super::AGENT;
use super::access::Access;
use super::authentication::Token;
use super::certificates::Expiry;
use super::connections::{Connections, SendError};
use super::credentials::{Authorization, prepare, renew_after};
use super::dialer::{DialError, DialOrder, Dialer};
use super::failure::{ExpectedServer, explain};
use super::readyz::Credentials;
use crate::process::clock::unix_now;

/// How long it may take to connect (15 s, see the dialer) and to get the head of the response: for that, an apiserver
/// waits 3 s if its cache must reach a resourceVersion first. Dead connections are noticed sooner, by PING and
/// keepalive.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The usual interval between two PINGs of HTTP/2. A process that hangs is noticed within it and the 5 s that an
/// acknowledgement may take, where probes have not noticed it before; a host that is gone, by the kernel's keepalive,
/// which costs the apiserver nothing, within seconds (see the dialer).
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Sends requests over connections of its own: dropping it closes them.
pub(crate) struct HttpClient<O: DialOrder> {
    connections: Connections<O>,
    certificate: Arc<dyn ResolvesClientCert>,
    access: Access,
    authorization: Option<Authorization>,
    has_plugin: bool,
    token: Option<Arc<Token>>,
    expected: ExpectedServer,
    expiry: Expiry,
    renew_after: Option<Duration>,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The credentials cannot be read, or no request be made of them.
    Prepare(String),
    /// No address could be connected to.
    Dial(DialError),
    /// The connection failed; one line.
    Broken(String),
    /// No head of a response within this.
    Timeout(Duration),
}

impl<O: DialOrder> HttpClient<O> {
    /// Reads the credentials. Nothing is dialled before the first request; then a PING is sent at each `ping_interval`.
    ///
    /// # Errors
    /// One line that says what cannot be read.
    pub(crate) async fn open(
        access: &Access,
        order: &Arc<Mutex<O>>,
        ping_interval: Duration,
    ) -> Result<Self, String> {
        let prepared = prepare(access).await?;
        let certificate = Arc::clone(&prepared.tls.client_auth_cert_resolver);
        let expected = ExpectedServer { name: access.tls_name().to_owned(), ca: access.ca().to_owned() };
        let dialer = Dialer::new(
            prepared.tls,
            access.server_name(),
            access.server().clone(),
            expected.clone(),
            Arc::clone(order),
        );
        Ok(Self {
            connections: Connections::new(dialer, ping_interval),
            access: access.clone(),
            certificate,
            authorization: prepared.authorization,
            has_plugin: access.plugin().is_some(),
            token: access.token(),
            expected,
            expiry: Expiry {
                client_certificate: prepared.expires.or(access.expiry().client_certificate),
                ..access.expiry()
            },
            renew_after: prepared.expires.and_then(|expires| renew_after(expires, unix_now())),
        })
    }

    /// After how long a credential plugin should be asked for another certificate.
    pub(crate) fn renew_after(&self) -> Option<Duration> {
        self.renew_after
    }

    /// Where the credentials come from and what of them has expired, for messages.
    pub(crate) fn credentials_source(&self) -> String {
        format!("{}{}", self.access.source(), self.expiry.expired_hint())
    }

    /// Whether [`Self::credentials`] may be other ones later: those in files that make other connections end the session.
    pub(crate) fn renews_credentials(&self) -> bool {
        self.has_plugin || self.token.is_some()
    }

    /// What is shown to apiservers, as it is now. A plugin whose token has expired is run for it, on a thread of its own.
    pub(crate) async fn credentials(&self) -> Result<Option<Credentials>, String> {
        let authorization = match (&self.token, &self.authorization) {
            (Some(token), _) => Some(token.latest()),
            (None, Some(authorization)) => Some(authorization.header().await?),
            (None, None) => None,
        };
        Ok(Credentials::new(Some(Arc::clone(&self.certificate)), authorization))
    }

    /// Sends a request, whose body is JSON if it is not empty. Returns once the head of the response is there.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, RequestError> {
        let request = self.request(method, target, body).await.map_err(RequestError::Prepare)?;
        match timeout(HEAD_TIMEOUT, self.connections.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(SendError::Dial(error))) => Err(RequestError::Dial(error)),
            Ok(Err(SendError::Broken(error))) => Err(self.connection_error(&error)),
            Err(_) => Err(RequestError::Timeout(HEAD_TIMEOUT)),
        }
    }

    /// What a failure of the connection means.
    pub(crate) fn connection_error(&self, error: &(dyn Error + 'static)) -> RequestError {
        RequestError::Broken(explain(error, &self.expected))
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
            .header(USER_AGENT, HeaderValue::from_static(AGENT));
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
        request.body(Full::new(body)).map_err(|error| format!("create a request for {target}: {error}"))
    }
}
