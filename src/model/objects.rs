//! The few fields of Service and EndpointSlice that a virtual IP is made of.
//!
//! In: the JSON or YAML of the Kubernetes API. Out: plain values for [`super::snapshot`]. Unknown fields are
//! ignored, and `null` reads as absent: the API writes empty Go slices as `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// `metadata` of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// `metadata.name`.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// `metadata.namespace`.
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    /// `metadata.labels`.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.resourceVersion`: opaque, to be handed back to the server only.
    #[serde(deserialize_with = "null_is_default")]
    pub resource_version: String,
}

/// A `v1` Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What the Service offers.
    pub spec: ServiceSpec,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The first cluster IP; empty or `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "null_is_default")]
    pub cluster_ip: String,
    /// Every cluster IP.
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_default")]
    pub cluster_ips: Vec<String>,
    /// The ports.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "null_is_default")]
    pub session_affinity: String,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServicePort {
    /// The name; may be empty when the Service has one port only.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The port that clients dial.
    pub port: i64,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "null_is_default")]
    pub protocol: String,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name, namespace and the label that names the Service.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "null_is_default")]
    pub address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// The ports that every endpoint of this slice has.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses of this one endpoint; in practice exactly one.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<String>,
    /// Its conditions.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: EndpointConditions,
}

/// Conditions of an endpoint; absent means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Ready for new connections; absent counts as ready.
    pub ready: Option<bool>,
    /// Like `ready`, but keeps its meaning while the endpoint terminates.
    pub serving: Option<bool>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Equals the name of the Service's port.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The port number; absent means every port, which nothing can be redirected to.
    pub port: Option<i64>,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "null_is_default")]
    pub protocol: String,
}

/// What the API said of one Service: the input of a Snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The Service, or `None` when the API says that it does not exist.
    pub service: Option<Service>,
    /// Its EndpointSlices, by name.
    pub slices: BTreeMap<String, EndpointSlice>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
