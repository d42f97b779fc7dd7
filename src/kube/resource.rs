//! The two collections that are read, and the requests that read them. Pure.
//!
//! In: the Service's key. Out: request targets that select this one Service and nothing else of the cluster, and
//! how errors name a request.

use std::fmt;

use crate::model::types::ServiceKey;
use crate::transport::text::percent_encode;

/// One collection of the API, as the selectors narrow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// The Service itself.
    Service,
    /// Its EndpointSlices, `discovery.k8s.io/v1` (Kubernetes 1.21 and later).
    EndpointSlices,
}

impl Resource {
    /// `apiVersion` of its objects and lists.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::EndpointSlices => "discovery.k8s.io/v1",
        }
    }

    /// `kind` of its objects.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlices => "EndpointSlice",
        }
    }

    /// `kind` of its lists.
    pub fn list_kind(self) -> &'static str {
        match self {
            Self::Service => "ServiceList",
            Self::EndpointSlices => "EndpointSliceList",
        }
    }

    /// Its name in a Role's rule, with the API group behind it as `kubectl auth can-i` takes it.
    pub fn rbac_name(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlices => "endpointslices.discovery.k8s.io",
        }
    }

    /// Path and selector, without the parameters that say how to read.
    fn path(self, key: &ServiceKey) -> String {
        let ServiceKey { namespace, name } = key;
        match self {
            Self::Service => {
                format!("/api/v1/namespaces/{namespace}/services?fieldSelector=metadata.name%3D{name}")
            }
            Self::EndpointSlices => format!(
                "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
                 ?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
            ),
        }
    }

    /// The target of a list. No `limit`: the selectors leave a handful of objects, and with a limit the server
    /// would take a resourceVersion as exact instead of as a lower bound.
    pub fn list_target(self, key: &ServiceKey, version: &ResourceVersionMatch) -> String {
        let path = self.path(key);
        match version {
            ResourceVersionMatch::Any => format!("{path}&resourceVersion=0"),
            ResourceVersionMatch::NotOlderThan(version) => {
                format!("{path}&resourceVersion={}", query_value(version))
            }
            ResourceVersionMatch::MostRecent => path,
        }
    }

    /// The target of a watch that reports everything after `version`, for `seconds` at most.
    pub fn watch_target(self, key: &ServiceKey, version: &str, seconds: u64) -> String {
        format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.path(key),
            query_value(version)
        )
    }
}

/// How recent a list must be, in the terms of the API's `resourceVersion` parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    /// Whatever the apiserver has in its cache: costs etcd nothing when 5,000 nodes start at once.
    Any,
    /// Not older than this resourceVersion, so that a lagging server never takes us back in time.
    NotOlderThan(String),
    /// The newest, read through to etcd: the answer to a resourceVersion that the server does not have.
    MostRecent,
}

/// A request to the API as errors name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// `list` or `watch`, as RBAC names it.
    pub verb: &'static str,
    /// Of which collection.
    pub resource: Resource,
    /// In which namespace.
    pub namespace: String,
}

impl fmt::Display for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in namespace {}", self.verb, self.resource.rbac_name(), self.namespace)
    }
}

/// A resourceVersion is opaque: nothing in it may become another query parameter.
fn query_value(text: &str) -> String {
    percent_encode(text, b"-._~")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceKey {
        "default/kubernetes".parse().unwrap()
    }

    #[test]
    fn request_targets_select_one_service() {
        assert_eq!(
            Resource::Service.list_target(&key(), &ResourceVersionMatch::Any),
            "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes&resourceVersion=0"
        );
        assert_eq!(
            Resource::EndpointSlices.watch_target(&key(), "42", 300),
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io\
             %2Fservice-name%3Dkubernetes&watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion=42"
        );
        assert_eq!(
            Resource::Service.list_target(&key(), &ResourceVersionMatch::MostRecent),
            "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes"
        );
    }

    #[test]
    fn resource_version_is_percent_encoded() {
        let target =
            Resource::Service.list_target(&key(), &ResourceVersionMatch::NotOlderThan("1&limit=0 \n".into()));
        assert!(target.ends_with("&resourceVersion=1%26limit%3D0%20%0A"), "{target}");
    }
}
