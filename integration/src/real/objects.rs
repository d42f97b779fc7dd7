//! The API objects that the harness writes and reads, as JSON. Pure.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::PORT;
use crate::sim::objects::Port;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
/// The path of the Service `kubernetes`.
pub(super) const KUBERNETES_SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices";

/// The collection that it is in.
pub(super) const SERVICES: &str = "/api/v1/namespaces/default/services";

/// The permissions that users are told to give to the daemon.
const RBAC: &str = include_str!("../../../docs/install/rbac.yaml");

/// What user `apivip` may do, no more than users are told to allow: collection and object of each.
pub(super) fn apivip_permissions() -> Result<Vec<(&'static str, Value)>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(RBAC).context("read docs/install/rbac.yaml")?;
    let collection = |object: &Value| match object["kind"].as_str() {
        Some("Role") => Ok(ROLES),
        Some("RoleBinding") => Ok(BINDINGS),
        kind => bail!("{kind:?} is no permission"),
    };
    objects.into_iter().map(|object| Ok((collection(&object)?, object))).collect()
}

/// The Service `kubernetes` with these virtual IPs and ports. Only a `dual_stack` server knows of more than one virtual IP.
pub(super) fn kubernetes_service(vips: &[IpAddr], ports: &[Port], affinity: bool, dual_stack: bool) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|p| json!({ "name": p.name, "port": p.port, "protocol": "TCP", "targetPort": PORT }))
        .collect();
    let vips: Vec<String> = match vips {
        [] => vec!["None".to_owned()],
        vips => vips.iter().map(IpAddr::to_string).collect(),
    };
    let mut spec = json!({
        "clusterIP": vips[0],
        "sessionAffinity": if affinity { "ClientIP" } else { "None" },
        "ports": ports,
    });
    if dual_stack {
        spec["ipFamilyPolicy"] = json!(if vips.len() > 1 { "RequireDualStack" } else { "SingleStack" });
        spec["clusterIPs"] = json!(vips);
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": spec,
    })
}

/// Endpoints and one EndpointSlice per family of the Service `kubernetes`: collection and object of each.
pub(super) fn kubernetes_endpoints(addresses: &[IpAddr], ports: &[Port]) -> [(&'static str, Value); 3] {
    let ports: Vec<Value> =
        ports.iter().map(|p| json!({ "name": p.name, "port": p.port, "protocol": "TCP" })).collect();
    let all: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let subsets = if all.is_empty() { json!([]) } else { json!([{ "addresses": all, "ports": ports }]) };
    // Without the label, a cluster's mirroring controller would make slices of its own out of these.
    let metadata =
        json!({ "name": "kubernetes", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } });
    let endpoints =
        json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets });
    let slice = |name: &str, family: &str, of_family: fn(&IpAddr) -> bool| {
        let endpoints: Vec<Value> = addresses
            .iter()
            .filter(|ip| of_family(ip))
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": family, "endpoints": endpoints, "ports": ports,
        })
    };
    [
        (ENDPOINTS, endpoints),
        (SLICES, slice("kubernetes", "IPv4", IpAddr::is_ipv4)),
        (SLICES, slice("kubernetes-ipv6", "IPv6", IpAddr::is_ipv6)),
    ]
}

/// The addresses in an Endpoints object.
pub(super) fn endpoint_addresses(object: &Value) -> Result<Vec<SocketAddr>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for subset in list(&object["subsets"]) {
        for address in list(&subset["addresses"]) {
            let ip = address["ip"].as_str().context("read an endpoint's address")?;
            for port in list(&subset["ports"]) {
                let port = port["port"].as_u64().and_then(|port| port.try_into().ok());
                found.push(SocketAddr::new(
                    ip.parse().context("parse an endpoint's address")?,
                    port.context("read a port")?,
                ));
            }
        }
    }
    Ok(found)
}
