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
/// The collection of EndpointSlices.
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

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

/// The Service `kubernetes` with these virtual IPs and ports. Without virtual IPs it is headless.
pub(super) fn kubernetes_service(vips: &[IpAddr], ports: &[Port], affinity: bool) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|p| json!({ "name": p.name, "port": p.port, "protocol": "TCP", "targetPort": PORT }))
        .collect();
    let vips: Vec<String> = match vips {
        [] => vec!["None".to_owned()],
        vips => vips.iter().map(IpAddr::to_string).collect(),
    };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": {
            "clusterIP": vips[0],
            "clusterIPs": vips,
            "ipFamilyPolicy": if vips.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "sessionAffinity": if affinity { "ClientIP" } else { "None" },
            "ports": ports,
        },
    })
}

/// One EndpointSlice per family of the Service `kubernetes`, empty where there is no address.
pub(super) fn kubernetes_slices(addresses: &[IpAddr], ports: &[Port]) -> [Value; 2] {
    let ports: Vec<Value> =
        ports.iter().map(|p| json!({ "name": p.name, "port": p.port, "protocol": "TCP" })).collect();
    let slice = |name: &str, family: &str, of_family: fn(&IpAddr) -> bool| {
        let endpoints: Vec<Value> = addresses
            .iter()
            .filter(|ip| of_family(ip))
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": family, "endpoints": endpoints, "ports": ports,
        })
    };
    [slice("kubernetes", "IPv4", IpAddr::is_ipv4), slice("kubernetes-ipv6", "IPv6", IpAddr::is_ipv6)]
}

/// The addresses in a list of EndpointSlices.
pub(super) fn slice_addresses(list: &Value) -> Result<Vec<SocketAddr>> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for slice in items(&list["items"]) {
        for address in items(&slice["endpoints"]).iter().flat_map(|endpoint| items(&endpoint["addresses"])) {
            let ip = address.as_str().context("read an endpoint's address")?;
            for port in items(&slice["ports"]) {
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
