//! What one apiserver lets this user do: asks it (SelfSubjectAccessReview), and reads what the daemon reads, once.
//!
//! In: access, and the address of an apiserver. Out: an [`AccessReview`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};

use super::candidates::Candidates;
use super::client::{ApiError, Client};
use super::decode::Change;
use super::reflector::list;
use super::resource::{RequestInfo, Resource, ResourceVersionMatch};
use super::store::Store;
use crate::model::snapshot::{Snapshot, SnapshotOptions};
use crate::model::sources::FallbackEndpoints;
use crate::model::types::ServiceKey;
use crate::transport::access::Access;
use crate::transport::http_client::PING_INTERVAL;
use crate::transport::text::one_line;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What the daemon does with each collection.
const VERBS: [&str; 2] = ["list", "watch"];

/// What an apiserver allows and publishes.
#[derive(Clone, Debug)]
pub struct AccessReview {
    /// Whether the daemon may do each thing that it does; an error is one line.
    pub permissions: Vec<Permission>,
    /// What it publishes, or one line with the reason why it could not be read.
    pub snapshot: Result<Arc<Snapshot>, String>,
}

/// One thing that the daemon does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Of which collection.
    pub resource: Resource,
    /// `list` or `watch`.
    pub verb: &'static str,
    /// Whether it may.
    pub allowed: Result<bool, ReviewError>,
}

/// Why there is no answer to a review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReviewError {
    /// It does not accept the credentials.
    Unauthorized(String),
    /// Anything else.
    Unanswered(String),
}

/// Asks the apiserver at `address`. Credentials are read, and a plugin run, as the daemon does.
///
/// # Errors
/// One line: the credentials cannot be read.
pub async fn review_access(
    access: &Access,
    address: SocketAddr,
    key: &ServiceKey,
    options: SnapshotOptions,
) -> Result<AccessReview, String> {
    let mut only = Candidates::new(0);
    only.set_alternatives(FallbackEndpoints {
        addresses: BTreeSet::from([address]),
        ..FallbackEndpoints::default()
    });
    let candidates = Arc::new(Mutex::new(only));
    let client = Client::open(access, &candidates, PING_INTERVAL).await.map_err(|error| error.to_string())?;
    let (service, slices, permissions) = tokio::join!(
        list(&client, Resource::Service, key, &ResourceVersionMatch::Any),
        list(&client, Resource::EndpointSlices, key, &ResourceVersionMatch::Any),
        permissions(&client, key),
    );
    let snapshot = match (service, slices) {
        (Ok((service, _)), Ok((slices, _))) => snapshot(service.change, slices.change, options),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    Ok(AccessReview { permissions, snapshot })
}

fn snapshot(service: Change, slices: Change, options: SnapshotOptions) -> Result<Arc<Snapshot>, String> {
    let mut store = Store::new(options);
    store.apply(service);
    store.apply(slices).ok_or_else(|| "the lists are not complete".to_owned())
}

async fn permissions(client: &Client, key: &ServiceKey) -> Vec<Permission> {
    let all = [Resource::Service, Resource::EndpointSlices].into_iter();
    let request =
        all.flat_map(|resource| VERBS.map(|verb| (resource, verb))).map(|(resource, verb)| async move {
            Permission { resource, verb, allowed: allowed(client, resource, verb, key).await }
        });
    futures_util::future::join_all(request).await
}

async fn allowed(
    client: &Client,
    resource: Resource,
    verb: &'static str,
    key: &ServiceKey,
) -> Result<bool, ReviewError> {
    let request = RequestInfo { verb, resource, namespace: key.namespace.clone() };
    let body = Bytes::from(review_body(resource, verb, key).to_string());
    let answer = client.post(&request, REVIEWS, body).await.map_err(|error| match error {
        ApiError::Unauthorized { credentials, .. } => ReviewError::Unauthorized(credentials),
        // Its words are about what is request, not about asking.
        ApiError::Forbidden { message, .. } => ReviewError::Unanswered(message),
        other => ReviewError::Unanswered(other.to_string()),
    })?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| {
        ReviewError::Unanswered(format!("read the answer: {}", one_line(&error.to_string())))
    })?;
    match answer.pointer("/status/allowed").and_then(Value::as_bool) {
        Some(allowed) => Ok(allowed),
        None => Err(ReviewError::Unanswered("the answer does not contain the result".to_owned())),
    }
}

/// An apiserver takes `metadata.name=X` in a field selector for the name that a list or watch is about, which a Role may
/// be limited to; of a label selector nothing of that kind follows.
fn review_body(resource: Resource, verb: &str, key: &ServiceKey) -> Value {
    let (plural, group) = resource.rbac_name().split_once('.').unwrap_or((resource.rbac_name(), ""));
    let name = if resource == Resource::EndpointSlices { "" } else { &key.name };
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": key.namespace, "verb": verb, "group": group, "resource": plural, "name": name,
        }},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn review_asks_for_what_the_daemon_does() {
        let key: ServiceKey = "default/kubernetes".parse().unwrap();
        let attributes =
            |resource| review_body(resource, "watch", &key)["spec"]["resourceAttributes"].clone();
        let service = attributes(Resource::Service);
        assert_eq!((service["resource"].as_str(), service["group"].as_str()), (Some("services"), Some("")));
        assert_eq!((service["name"].as_str(), service["verb"].as_str()), (Some("kubernetes"), Some("watch")));
        let slices = attributes(Resource::EndpointSlices);
        assert_eq!(slices["resource"], "endpointslices");
        assert_eq!((slices["group"].as_str(), slices["name"].as_str()), (Some("discovery.k8s.io"), Some("")));
    }
}
