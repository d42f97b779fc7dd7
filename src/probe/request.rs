//! The one question that is asked, and what its answers mean.

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Uri, Version};
use http_body_util::Empty;
use rustls::pki_types::ServerName;

use crate::readyz::authority;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("apivip/", env!("CARGO_PKG_VERSION")));

/// `GET /readyz` of the server with a certain name.
#[derive(Clone, Debug)]
pub(super) struct Question {
    uri: Uri,
    host: HeaderValue,
}

impl Question {
    pub(super) fn new(name: &ServerName<'_>) -> Self {
        let authority = authority(name);
        let uri =
            Uri::builder().scheme("https").authority(authority.as_str()).path_and_query("/readyz").build();
        Self {
            // Every name that TLS takes is an authority of HTTP, too.
            uri: uri.unwrap_or_else(|_| Uri::from_static("https://kubernetes.default.svc/readyz")),
            host: HeaderValue::from_str(&authority)
                .unwrap_or(HeaderValue::from_static("kubernetes.default.svc")),
        }
    }

    /// As HTTP/2 wants it.
    pub(super) fn h2(&self, authorization: Option<&HeaderValue>) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        introduce(request.headers_mut(), authorization);
        request
    }

    /// As HTTP/1.1 wants it.
    pub(super) fn h1<B: bytes::Buf>(&self, authorization: Option<&HeaderValue>) -> Request<Empty<B>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static("/readyz");
        request.headers_mut().insert(HOST, self.host.clone());
        introduce(request.headers_mut(), authorization);
        request
    }
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
