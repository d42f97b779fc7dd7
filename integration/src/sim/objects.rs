//! Builders of the API objects that make up the `kubernetes` Service.
//!
//! In: addresses and ports. Out: JSON as a kube-apiserver holds it, to be put into a simulated server or written
//! to a file. The resourceVersion is set by whoever stores the object.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// Namespace of everything here.
pub const NAMESPACE: &str = "default";
/// Name of the Service.
pub const SERVICE: &str = "kubernetes";
/// The label that ties a slice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A named TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, which ties Service and slice together.
    pub name: String,
    /// The number: what clients dial in a Service, what backends listen on in a slice.
    pub port: u16,
}

impl Port {
    /// A TCP port called `name`.
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port }
    }
}

/// The Service `default/kubernetes` with these cluster IPs; none at all makes it headless.
pub fn service(cluster_ips: &[IpAddr], ports: &[Port], session_affinity: bool) -> Value {
    let ips: Vec<String> = match cluster_ips {
        [] => vec!["None".to_owned()],
        ips => ips.iter().map(IpAddr::to_string).collect(),
    };
    let families: Vec<&str> = cluster_ips.iter().copied().map(family).collect();
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": "TCP", "port": port.port, "targetPort": 6443}))
        .collect();
    let mut spec = json!({
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ipFamilies": families,
        "ipFamilyPolicy": policy,
        "internalTrafficPolicy": "Cluster",
        "ports": ports,
    });
    if session_affinity {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": metadata(SERVICE, json!({"component": "apiserver", "provider": "kubernetes"})),
        "spec": spec,
        "status": {"loadBalancer": {}},
    })
}

/// The slices of these backends: `kubernetes` for IPv4, `kubernetes-v6` for IPv6, each only when it has any.
pub fn endpoint_slices(backends: &[IpAddr], ports: &[Port]) -> Vec<Value> {
    let of_family =
        |v6: bool| backends.iter().copied().filter(move |ip| ip.is_ipv6() == v6).collect::<Vec<_>>();
    [(SERVICE, of_family(false)), ("kubernetes-v6", of_family(true))]
        .into_iter()
        .filter(|(_, ips)| !ips.is_empty())
        .map(|(name, ips)| endpoint_slice(name, family(ips[0]), &ips, ports))
        .collect()
}

/// One slice, whatever its name, type and addresses: also empty or wrong ones.
pub fn endpoint_slice(name: &str, address_type: &str, backends: &[IpAddr], ports: &[Port]) -> Value {
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata(name, json!({SERVICE_NAME_LABEL: SERVICE})),
        "addressType": address_type,
        "endpoints": null_when_empty(endpoints),
        "ports": null_when_empty(endpoint_ports(ports)),
    })
}

fn endpoint_ports(ports: &[Port]) -> Vec<Value> {
    ports.iter().map(|port| json!({"name": port.name, "port": port.port, "protocol": "TCP"})).collect()
}

fn null_when_empty(items: Vec<Value>) -> Value {
    if items.is_empty() { Value::Null } else { Value::Array(items) }
}

fn metadata(name: &str, labels: Value) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(name));
    metadata.insert("namespace".into(), json!(NAMESPACE));
    metadata.insert("creationTimestamp".into(), json!("2024-01-01T00:00:00Z"));
    metadata.insert("labels".into(), labels);
    metadata
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_split_by_family() {
        let ips =
            ["192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap(), "192.0.2.12".parse().unwrap()];
        let slices = endpoint_slices(&ips, &[Port::new("https", 6443)]);
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[0]["addressType"], "IPv4");
        assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(slices[1]["metadata"]["name"], "kubernetes-v6");
        assert_eq!(slices[1]["endpoints"][0]["addresses"][0], "2001:db8::11");
    }

    #[test]
    fn headless_service_names_no_address() {
        let service = service(&[], &[Port::new("https", 443)], false);
        assert_eq!(service["spec"]["clusterIP"], "None");
    }
}
