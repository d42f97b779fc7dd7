//! Status objects: the form in which a kube-apiserver says no.
//!
//! In: code and message. Out: the JSON of `v1 Status`, as answer or as ERROR event.

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::route::{ResourceRequest, Route};
use crate::sim::body::{AnswerBody, full};

/// The user that a valid token stands for.
pub const TOKEN_USER: &str = "system:serviceaccount:kube-system:apivip";

/// The user that a request without any credentials is.
pub const ANONYMOUS: &str = "system:anonymous";

/// A failure Status; `details` is added when it is not null.
pub fn object(code: u16, message: &str, details: Value) -> Value {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason(code),
        "code": code,
    });
    if !details.is_null() {
        status["details"] = details;
    }
    status
}

/// A failure Status as answer.
pub fn answer(code: u16, message: &str, details: Value) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    full(status, "application/json", object(code, message, details).to_string())
}

/// What a real server says with `code` to this request.
pub fn for_request(code: u16, request: &ResourceRequest) -> Response<AnswerBody> {
    match code {
        401 => answer(401, "Unauthorized", Value::Null),
        403 => answer(403, &may_not(request, TOKEN_USER), details(request)),
        404 => answer(404, &format!("{} not found", request.subject()), details(request)),
        410 => answer(410, "The resourceVersion for the provided watch is too old.", Value::Null),
        429 => answer(429, "Too many requests, please try again later.", json!({"retryAfterSeconds": 1})),
        500 => {
            answer(500, "Internal error occurred: simulated", json!({"causes": [{"message": "simulated"}]}))
        }
        503 => answer(503, "apiserver is shutting down", Value::Null),
        other => answer(other, "simulated failure", Value::Null),
    }
}

/// The Status of a watch whose version has expired.
pub fn expired(asked: u64, oldest: u64) -> Value {
    object(410, &format!("too old resource version: {asked} ({oldest})"), Value::Null)
}

/// The Status of a list at a version that this server has not reached.
pub fn too_large(asked: u64, current: u64) -> Response<AnswerBody> {
    let details = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    });
    answer(504, &format!("Timeout: Too large resource version: {asked}, current: {current}"), details)
}

/// What a real server says to a user who may not do this.
pub fn forbidden<B>(request: &Request<B>, what: &Route, user: &str) -> Response<AnswerBody> {
    if let Route::Resource(request) = what {
        return answer(403, &may_not(request, user), details(request));
    }
    let path = request.uri().path();
    let (verb, parts) = (request.method().as_str().to_lowercase(), path.split('/').skip(1));
    let (group, parts) = match parts.collect::<Vec<_>>().as_slice() {
        ["api", _, parts @ ..] => (String::new(), parts.to_vec()),
        ["apis", group, _, parts @ ..] => ((*group).to_owned(), parts.to_vec()),
        _ => (String::new(), Vec::new()),
    };
    let (place, plural) = match parts.as_slice() {
        ["namespaces", namespace, plural, ..] => (format!("in the namespace \"{namespace}\""), *plural),
        [plural, ..] => ("at the cluster scope".to_owned(), *plural),
        [] => {
            let sentence = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
            return answer(403, &sentence, json!({}));
        }
    };
    let verb = if verb == "get" { "list" } else { &verb };
    let subject = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let sentence = format!(
        "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{group}\" {place}"
    );
    answer(403, &sentence, json!({ "kind": plural }))
}

/// The authorizer's sentence.
fn may_not(request: &ResourceRequest, user: &str) -> String {
    let place = match &request.scope.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    format!(
        "{} is forbidden: User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
        request.subject(),
        request.verb.name(),
        request.kind().plural,
        request.kind().group(),
    )
}

fn details(request: &ResourceRequest) -> Value {
    let mut details = json!({"kind": request.kind().plural});
    if let Some(name) = request.name() {
        details["name"] = json!(name);
    }
    if !request.kind().group().is_empty() {
        details["group"] = json!(request.kind().group());
    }
    details
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
