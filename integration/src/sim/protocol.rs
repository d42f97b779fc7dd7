//! The messages of a simulated apiserver's control socket.
//!
//! Shared by the server that takes them and the client in [`super::control`]: JSON over HTTP/1.1 on a unix socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kinds of object that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// `v1` Service.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlices,
}

/// `POST /put`: stores an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Put {
    /// The store's new version, above the present one; absent means the next.
    pub resource_version: Option<u64>,
    /// The object with kind, apiVersion, name and namespace.
    pub object: Value,
}

/// `POST /delete`: removes an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delete {
    /// As in [`Put`].
    pub resource_version: Option<u64>,
    /// What kind of object.
    pub resource: Resource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `POST /bump`: other objects of the cluster changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bump {
    /// As in [`Put`].
    pub resource_version: Option<u64>,
}

/// The answer to every change of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The store's version now.
    pub resource_version: u64,
}

/// How an expired resourceVersion is told to a watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredForm {
    /// HTTP 200, then one ERROR event with a Status of code 410.
    #[default]
    Event,
    /// HTTP 410 with the Status as body.
    Http,
}

/// An answer that replaces the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canned {
    /// HTTP status.
    pub status: u16,
    /// The body; absent means the Status object that a real server sends with this code.
    pub body: Option<String>,
    /// `application/json` when absent.
    pub content_type: Option<String>,
    /// Only for this verb (`get`, `list`, `watch`); absent means every one.
    pub verb: Option<String>,
    /// Only for this resource; absent means every one.
    pub resource: Option<Resource>,
}

impl Canned {
    /// Status `status` with the body of a real server, to every API request.
    pub fn status(status: u16) -> Self {
        Self { status, body: None, content_type: None, verb: None, resource: None }
    }

    /// An HTML page with status 200, as a captive portal or a wrong load balancer sends it.
    pub fn html() -> Self {
        Self {
            body: Some("<!DOCTYPE html><html><body>It works!</body></html>\n".to_owned()),
            content_type: Some("text/html; charset=utf-8".to_owned()),
            ..Self::status(200)
        }
    }
}

/// `POST /faults`: the whole set of standing faults; the default is a healthy server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Replaces the answer to requests under `/api` and `/apis`.
    pub answer: Option<Canned>,
    /// Delays every answer, in milliseconds.
    pub delay_ms: u64,
    /// HTTP status of `/readyz`.
    pub readyz: u16,
    /// HTTP status of `/livez` and `/healthz`.
    pub livez: u16,
    /// Whether health and version are answered without credentials.
    pub anonymous_health: bool,
    /// Form of the 410.
    pub expired: ExpiredForm,
    /// What reviews of permissions deny, each as VERB RESOURCE, such as `watch services`. Reading is not concerned.
    pub denied: Vec<String>,
    /// Added to the clock that the `Date` of every answer shows, in seconds.
    pub clock_ahead: i64,
    /// Time between bookmarks in milliseconds; a real server sends one about every minute.
    pub bookmark_ms: u64,
    /// Whether HTTP/1.1 connections opened from now on go on after the client has said that it sends no more.
    pub half_close: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            answer: None,
            delay_ms: 0,
            readyz: 200,
            livez: 200,
            anonymous_health: true,
            expired: ExpiredForm::Event,
            denied: Vec::new(),
            clock_ahead: 0,
            bookmark_ms: 60_000,
            half_close: false,
        }
    }
}

/// `POST /inject`: writes into every open watch (of one resource).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inject {
    /// Only watches of this resource; absent means every one.
    pub resource: Option<Resource>,
    /// What is written.
    pub what: Injection,
}

/// What can be written into a watch out of turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Injection {
    /// Half a JSON line; then the stream ends cleanly.
    HalfLine,
    /// A MODIFIED event of about this many bytes: a valid Service with one huge annotation.
    Large(usize),
    /// An ADDED event that carries a Pod.
    WrongKind,
    /// An ERROR event with a Status of this code; then the stream ends.
    Error(u16),
    /// This text and a newline.
    Line(String),
    /// Nothing: the stream ends cleanly.
    Close,
}

/// The answer to [`Inject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// How many watches were written to.
    pub watches: usize,
}

/// `POST /hang`: accept, but never read or write.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Hang {
    /// Starts or ends it.
    pub on: bool,
    /// Whether the echo ports fall silent too.
    pub echo: bool,
}

/// `POST /reset`: answers every open connection with a TCP reset.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reset {
    /// Whether echo connections are reset too.
    pub echo: bool,
}

/// `POST /certificate`: the certificate of every later handshake.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// Its chain, a PEM file.
    pub cert: PathBuf,
    /// Its key, a PEM file.
    pub key: PathBuf,
}

/// `GET /stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// The server's name.
    pub name: String,
    /// The store's version.
    pub resource_version: u64,
    /// Objects in the store.
    pub objects: usize,
    /// TLS connections open now, and accepted since the start.
    pub connections: Opened,
    /// Echo connections open now, and accepted since the start.
    pub echo: Opened,
    /// TLS handshakes that were completed.
    pub tls_done: u64,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// The open watches.
    pub watches: Vec<OpenWatch>,
    /// How often each path was asked for.
    pub requests: Vec<RequestCount>,
}

impl Stats {
    /// Requests with this verb whose path contains `part`.
    pub fn requests_of(&self, verb: &str, part: &str) -> u64 {
        self.requests.iter().filter(|r| r.verb == verb && r.path.contains(part)).map(|r| r.count).sum()
    }
}

/// Connections of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Open now.
    pub open: usize,
    /// Accepted since the start.
    pub accepted: u64,
}

/// A watch that is open now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWatch {
    /// Path with query.
    pub path: String,
    /// The resourceVersion that the client asked for, as it wrote it.
    pub resource_version: Option<String>,
    /// The client.
    pub peer: SocketAddr,
}

/// How often a path was asked for with one verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCount {
    /// `get`, `list`, `watch`, or the HTTP method in lower case for paths that are no resource.
    pub verb: String,
    /// The path without query.
    pub path: String,
    /// How often.
    pub count: u64,
}
