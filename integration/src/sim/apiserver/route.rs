//! From method, path and query to what is asked for.
//!
//! Pure. In: the request line. Out: health, version, discovery or a resource request with verb, scope and options.

use http::Method;

use super::selector::Selector;
use super::store::Scope;
use crate::sim::protocol::Resource;

/// Where SelfSubjectAccessReviews are posted.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/readyz`.
    Ready,
    /// `/livez` or `/healthz`.
    Live,
    /// `/version`.
    Version,
    /// `/openapi/v2`, the largest thing that anybody may read.
    OpenApi,
    /// A SelfSubjectAccessReview, which anybody may post.
    Review,
    /// Objects.
    Resource(Box<ResourceRequest>),
    /// A selector or number that cannot be read, with the server's sentence.
    Bad(String),
    /// Anything but reading.
    NotAllowed,
    /// Everything else.
    Unknown,
}

/// The reading verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One object by name.
    Get,
    /// A list.
    List,
    /// A stream of events.
    Watch,
}

impl Verb {
    /// As the authorizer names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// A request for objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRequest {
    /// What is to be done.
    pub verb: Verb,
    /// With which objects.
    pub scope: Scope,
    /// The name in the path.
    pub path_name: Option<String>,
    /// `resourceVersion`, as a number; absent or empty is 0.
    pub resource_version: u64,
    /// `resourceVersion` as the client wrote it.
    pub asked_version: Option<String>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
}

/// How a resource is written.
pub struct Kind {
    /// In paths.
    pub plural: &'static str,
    /// In objects.
    pub kind: &'static str,
    /// In objects.
    pub api_version: &'static str,
}

impl Kind {
    /// The API group; empty for the core group.
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// How `resource` is written.
pub fn kind_of(resource: Resource) -> Kind {
    match resource {
        Resource::Services => Kind { plural: "services", kind: "Service", api_version: "v1" },
        Resource::EndpointSlices => {
            Kind { plural: "endpointslices", kind: "EndpointSlice", api_version: "discovery.k8s.io/v1" }
        }
    }
}

impl ResourceRequest {
    /// How the resource is written.
    pub fn kind(&self) -> Kind {
        kind_of(self.scope.resource)
    }

    /// The one name that the request is about: in the path, or as the field selector's.
    pub fn name(&self) -> Option<&str> {
        self.path_name.as_deref().or_else(|| self.scope.selector.single_name())
    }

    /// The subject of an error message: `services "kubernetes"` or `endpointslices.discovery.k8s.io`.
    pub fn subject(&self) -> String {
        let kind = self.kind();
        let mut subject = kind.plural.to_owned();
        if !kind.group().is_empty() {
            subject = format!("{subject}.{}", kind.group());
        }
        match self.name() {
            Some(name) => format!("{subject} \"{name}\""),
            None => subject,
        }
    }
}

/// Reads a request line.
pub fn route(method: &Method, path: &str, query: &str) -> Route {
    match path.trim_end_matches('/') {
        "/readyz" => return Route::Ready,
        "/livez" | "/healthz" => return Route::Live,
        "/version" => return Route::Version,
        "/openapi/v2" => return Route::OpenApi,
        REVIEWS if method == Method::POST => return Route::Review,
        _ => {}
    }
    let Some((resource, namespace, name)) = resource_path(path) else { return Route::Unknown };
    if method != Method::GET {
        return Route::NotAllowed;
    }
    match resource_request(resource, namespace, name, query) {
        Ok(request) => Route::Resource(Box::new(request)),
        Err(message) => Route::Bad(message),
    }
}

fn resource_path(path: &str) -> Option<(Resource, Option<String>, Option<String>)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (slices, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => (false, rest),
        ["apis", "discovery.k8s.io", "v1", rest @ ..] => (true, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name) = match rest {
        [plural] => (*plural, None),
        [plural, name] if namespace.is_some() => (*plural, Some((*name).to_owned())),
        _ => return None,
    };
    let resource = match (plural, slices) {
        ("services", false) => Resource::Services,
        ("endpointslices", true) => Resource::EndpointSlices,
        _ => return None,
    };
    Some((resource, namespace, name))
}

fn resource_request(
    resource: Resource,
    namespace: Option<String>,
    path_name: Option<String>,
    query: &str,
) -> Result<ResourceRequest, String> {
    let query = Query::parse(query);
    let selector = Selector::parse(query.text("fieldSelector"), query.text("labelSelector"))?;
    let verb = match (query.flag("watch"), &path_name) {
        (true, None) => Verb::Watch,
        (_, Some(_)) => Verb::Get,
        (false, None) => Verb::List,
    };
    Ok(ResourceRequest {
        verb,
        scope: Scope { resource, namespace, selector },
        path_name,
        resource_version: query.number("resourceVersion")?.unwrap_or(0),
        asked_version: query.value("resourceVersion").map(str::to_owned),
        bookmarks: query.flag("allowWatchBookmarks"),
        timeout_seconds: query.number("timeoutSeconds")?,
    })
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(decode_pair).collect())
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn text(&self, key: &str) -> &str {
        self.value(key).unwrap_or_default()
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.value(key), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.text(key) {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| format!("Invalid value: {text:?}: {key} is no number"))
            }
        }
    }
}

fn decode_pair((key, value): (&str, &str)) -> (String, String) {
    (percent_decoded(key), percent_decoded(value))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
