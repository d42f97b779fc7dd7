//! The requests: `GET /readyz`, and `OPTIONS *`, to which any HTTP server answers (RFC 9110, section 9.3.7: a "ping", or "no-op").

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::Empty;
use rustls::pki_types::ServerName;

use crate::transport::readyz::authority;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("apivip/", env!("CARGO_PKG_VERSION")));

/// What is asked of the server with a certain name.
#[derive(Clone, Debug)]
pub(super) struct Question {
    readyz: Uri,
    ping: Uri,
    host: HeaderValue,
}

impl Question {
    pub(super) fn new(name: &ServerName<'_>) -> Self {
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

    /// `GET /readyz` as HTTP/2 wants it.
    pub(super) fn readyz_h2(&self, authorization: Option<&HeaderValue>) -> Request<()> {
        let mut request = h2(Method::GET, &self.readyz);
        introduce(request.headers_mut(), authorization);
        request
    }

    /// `GET /readyz` as HTTP/1.1 wants it.
    pub(super) fn readyz_h1<B: bytes::Buf>(&self, authorization: Option<&HeaderValue>) -> Request<Empty<B>> {
        let mut request = self.h1(Method::GET, Uri::from_static("/readyz"));
        introduce(request.headers_mut(), authorization);
        request
    }

    /// `OPTIONS *` as HTTP/2 wants it. It shows no credentials: kube-apiserver answers it before it asks for any.
    pub(super) fn ping_h2(&self) -> Request<()> {
        let mut request = h2(Method::OPTIONS, &self.ping);
        introduce(request.headers_mut(), None);
        request
    }

    /// `OPTIONS *` as HTTP/1.1 wants it.
    pub(super) fn ping_h1<B: bytes::Buf>(&self) -> Request<Empty<B>> {
        let mut request = self.h1(Method::OPTIONS, Uri::from_static("*"));
        introduce(request.headers_mut(), None);
        request
    }

    fn h1<B: bytes::Buf>(&self, method: Method, uri: Uri) -> Request<Empty<B>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }
}

fn h2(method: Method, uri: &Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    *request.version_mut() = Version::HTTP_2;
    request
}

fn introduce(headers: &mut HeaderMap, authorization: Option<&HeaderValue>) {
    headers.insert(USER_AGENT, AGENT);
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
}

/// Whether an HTTP/1 server will close the connection after this answer.
pub(super) fn is_last(version: Version, headers: &HeaderMap) -> bool {
    let says_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    version < Version::HTTP_11 || headers.get_all(CONNECTION).iter().any(says_close)
}
