//! One request of an API client: credentials, ordered faults, then the real answer.
//!
//! In: the request and its connection. Out: the answer; a watch goes on in [`super::watch`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::activity::Sent;
use super::identity::{Connection, Identity, identify};
use super::route::{ResourceRequest, Route, Verb, route};
use super::state::State;
use super::status;
use super::store::Key;
use super::watch;
use crate::sim::access_log::What;
use crate::sim::body::{AnswerBody, full};
use crate::sim::protocol::{Canned, Faults};

/// A real one is some times as long.
const OPENAPI_BYTES: usize = 1 << 18;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

type Answer = Response<AnswerBody>;

/// Answers one request.
pub(super) async fn handle(
    state: Arc<State>,
    connection: Connection,
    request: Request<Incoming>,
) -> Result<Response<Sent>, Infallible> {
    let busy = connection.activity.begin();
    // The HTTP server of Go answers this itself, whoever asks.
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Ok(full(StatusCode::OK, TEXT, "").map(|body| Sent::new(body, busy)));
    }
    let http2 = request.version() == Version::HTTP_2;
    let uri = request.uri();
    let what = route(request.method(), uri.path(), uri.query().unwrap_or_default());
    state.log.write(connection.peer, connection.local, logged(&request));
    state.count(verb_of(&what, &request), uri.path());
    let faults = state.faults.borrow().clone();
    if faults.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
    }
    let identity = identify(&state, &connection, request.headers());
    let answer = if what == Route::Review && identity == Identity::Known {
        reviewed(request.into_body(), &faults.denied).await
    } else {
        answer(&state, &connection, &request, what, identity, &faults)
    };
    if http2 && (identity != Identity::Known || answer.status() == StatusCode::UNAUTHORIZED) {
        connection.stranger.notify_one();
    }
    Ok(dated(answer, &faults).map(|body| Sent::new(body, busy)))
}

fn answer(
    state: &Arc<State>,
    connection: &Connection,
    request: &Request<Incoming>,
    what: Route,
    identity: Identity,
    faults: &Faults,
) -> Answer {
    let public = matches!(what, Route::Ready | Route::Live | Route::Version);
    match identity {
        Identity::Known => {}
        Identity::Anonymous if faults.anonymous_health && public => {}
        Identity::Anonymous if faults.anonymous_health => {
            return status::forbidden(request, &what, status::ANONYMOUS);
        }
        Identity::Anonymous | Identity::Wrong => return status::answer(401, "Unauthorized", Value::Null),
    }
    if let Some(answer) = ordered(faults, &what, request.uri().path()) {
        return answer;
    }
    match what {
        Route::Ready => health("readyz", faults.readyz),
        Route::Live => health("livez", faults.livez),
        Route::Version => version(),
        Route::OpenApi => full(StatusCode::OK, JSON, vec![b' '; OPENAPI_BYTES]),
        Route::Bad(message) => status::answer(400, &message, Value::Null),
        Route::NotAllowed => {
            status::answer(405, "the server does not allow this method on the resource", Value::Null)
        }
        // Who may read nothing else does not learn what else there is.
        Route::Unknown if state.tokens.is_some() => status::forbidden(request, &what, status::TOKEN_USER),
        Route::Unknown | Route::Review => full(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
        Route::Resource(resource) => match resource.verb {
            Verb::Get => object(state, &resource),
            Verb::List => list(state, &resource),
            Verb::Watch => watch::start(state, connection.peer, &path_and_query(request), *resource, faults),
        },
    }
}

/// The answer that was ordered for this request, if any.
fn ordered(faults: &Faults, what: &Route, path: &str) -> Option<Answer> {
    let canned = faults.answer.as_ref().filter(|_| path.starts_with("/api"))?;
    let resource = match what {
        Route::Resource(request) => Some(request),
        _ => None,
    };
    let verb = resource.map(|request| request.verb.name());
    if canned.verb.is_some() && canned.verb.as_deref() != verb
        || canned.resource.is_some() && canned.resource != resource.map(|request| request.scope.resource)
    {
        return None;
    }
    Some(match (&canned.body, resource) {
        (None, Some(request)) => status::for_request(canned.status, request),
        (None, None) => status::answer(canned.status, "simulated failure", Value::Null),
        (Some(body), _) => with_body(canned, body),
    })
}

fn with_body(canned: &Canned, body: &str) -> Answer {
    let status = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = full(status, JSON, body.to_owned());
    if let Some(Ok(value)) = canned.content_type.as_deref().map(str::parse) {
        answer.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    answer
}

fn health(check: &str, code: u16) -> Answer {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = match status.is_success() {
        true => "ok".to_owned(),
        false => format!("[+]ping ok\n[-]etcd failed: reason withheld\n{check} check failed\n"),
    };
    full(status, TEXT, body)
}

/// Reads the whole review, however long it is, and says yes unless what it asks for is denied.
async fn reviewed(mut body: Incoming, denied: &[String]) -> Answer {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return status::answer(400, "the body ends too early", Value::Null);
        };
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
    }
    let review: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let asked = |field: &str| review["spec"]["resourceAttributes"][field].as_str().unwrap_or_default();
    let asked = format!("{} {}", asked("verb"), asked("resource"));
    let allowed = !denied.contains(&asked);
    let body = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": allowed}});
    full(StatusCode::CREATED, JSON, body.to_string())
}

/// The answer of a server whose clock is wrong.
fn dated(mut answer: Answer, faults: &Faults) -> Answer {
    if faults.clock_ahead == 0 {
        return answer;
    }
    let now = time::OffsetDateTime::now_utc() + time::Duration::seconds(faults.clock_ahead);
    let (weekday, month) = (now.weekday().to_string(), now.month().to_string());
    let date = format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        now.day(),
        &month[..3],
        now.year(),
        now.hour(),
        now.minute(),
        now.second()
    );
    if let Ok(date) = date.parse() {
        answer.headers_mut().insert(header::DATE, date);
    }
    answer
}

fn version() -> Answer {
    let body = json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0-sim", "platform": "linux/amd64"});
    full(StatusCode::OK, JSON, body.to_string())
}

fn object(state: &State, request: &ResourceRequest) -> Answer {
    let key = Key {
        resource: request.scope.resource,
        namespace: request.scope.namespace.clone().unwrap_or_default(),
        name: request.path_name.clone().unwrap_or_default(),
    };
    match state.store().object(&key) {
        Some(object) => full(StatusCode::OK, JSON, object.to_string()),
        None => status::for_request(404, request),
    }
}

/// Everything fits into one page, so `limit` is not looked at.
fn list(state: &State, request: &ResourceRequest) -> Answer {
    let store = state.store();
    if request.resource_version > store.version() {
        return status::too_large(request.resource_version, store.version());
    }
    let items: Vec<Value> = store.list(&request.scope).iter().map(|object| item(object)).collect();
    let kind = request.kind();
    let body = json!({
        "kind": format!("{}List", kind.kind),
        "apiVersion": kind.api_version,
        "metadata": {"resourceVersion": store.version().to_string()},
        "items": if items.is_empty() { Value::Null } else { Value::Array(items) },
    });
    full(StatusCode::OK, JSON, body.to_string())
}

/// Inside a typed list the items carry no kind and apiVersion of their own.
fn item(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

fn logged(request: &Request<Incoming>) -> What {
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    What::Request {
        method: request.method().to_string(),
        path: path_and_query(request),
        version: format!("{:?}", request.version()),
        user_agent: agent.unwrap_or_default().to_owned(),
    }
}

fn path_and_query(request: &Request<Incoming>) -> String {
    request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}

fn verb_of<'a>(what: &Route, request: &'a Request<Incoming>) -> &'a str {
    match what {
        Route::Resource(resource) => resource.verb.name(),
        _ if request.method() == http::Method::GET => "get",
        _ => request.method().as_str(),
    }
}
