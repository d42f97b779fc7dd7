//! `discovery.k8s.io/v1beta1` to `v1` and back.
//!
//! Pure. In: JSON of either version. Out: JSON of the other. What is no EndpointSlice passes unchanged, byte by byte.

use serde_json::{Map, Value, json};

const V1: &str = "discovery.k8s.io/v1";
const V1BETA1: &str = "discovery.k8s.io/v1beta1";
const GROUP: &str = "discovery.k8s.io";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a request's path means to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Translation {
    /// None of its business.
    None,
    /// A path of `v1`, and where it goes upstream.
    Slices(String),
    /// The list of API groups, or the one group.
    Groups,
}

/// Looks at a path (without query).
pub(super) fn of_path(path: &str) -> Translation {
    let path = path.trim_end_matches('/');
    match path.strip_prefix("/apis/discovery.k8s.io/v1") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            Translation::Slices(format!("/apis/{V1BETA1}{rest}"))
        }
        _ if path == "/apis" || path == "/apis/discovery.k8s.io" => Translation::Groups,
        _ => Translation::None,
    }
}

/// A line of a watch.
pub(super) fn event_line(line: &[u8]) -> Vec<u8> {
    let Ok(mut event) = serde_json::from_slice::<Value>(line) else { return line.to_vec() };
    match event.get_mut("object").is_some_and(to_v1) {
        true => event.to_string().into_bytes(),
        false => line.to_vec(),
    }
}

/// A whole answer: an object, a list, the list of resources, or API groups.
pub(super) fn answer(body: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return body.to_vec() };
    match to_v1(&mut value) || groups_with_v1(&mut value) {
        true => value.to_string().into_bytes(),
        false => body.to_vec(),
    }
}

/// The body of a request that writes a slice.
pub(super) fn request(body: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return body.to_vec() };
    if value["apiVersion"] != V1 {
        return body.to_vec();
    }
    value["apiVersion"] = json!(V1BETA1);
    for endpoint in endpoints(&mut value) {
        endpoint_to_v1beta1(endpoint);
    }
    value.to_string().into_bytes()
}

/// Whether `value` was of `v1beta1`.
fn to_v1(value: &mut Value) -> bool {
    let Some(fields) = value.as_object_mut() else { return false };
    for name in ["apiVersion", "groupVersion"] {
        match fields.get_mut(name) {
            Some(version) if *version == V1BETA1 => *version = json!(V1),
            _ => continue,
        }
        for endpoint in endpoints(value) {
            endpoint_to_v1(endpoint);
        }
        for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            endpoints(item).for_each(endpoint_to_v1);
        }
        return true;
    }
    false
}

fn endpoints(slice: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    endpoints.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// `v1` has fields of its own for node and zone in place of the topology map.
fn endpoint_to_v1(endpoint: &mut Map<String, Value>) {
    let Some(topology) = endpoint.remove("topology") else { return };
    for (field, label) in [("nodeName", HOSTNAME), ("zone", ZONE)] {
        if let Some(value) = topology.get(label) {
            endpoint.entry(field).or_insert_with(|| value.clone());
        }
    }
}

fn endpoint_to_v1beta1(endpoint: &mut Map<String, Value>) {
    let mut topology = Map::new();
    for (field, label) in [("nodeName", HOSTNAME), ("zone", ZONE)] {
        if let Some(value) = endpoint.remove(field) {
            topology.insert(label.to_owned(), value);
        }
    }
    if !topology.is_empty() {
        endpoint.insert("topology".to_owned(), Value::Object(topology));
    }
}

/// Whether `value` names the group; then it also names `v1`, as the preferred version.
fn groups_with_v1(value: &mut Value) -> bool {
    if value["kind"] == "APIGroup" {
        return group_with_v1(value);
    }
    let groups = value.get_mut("groups").and_then(Value::as_array_mut);
    groups.into_iter().flatten().any(group_with_v1)
}

fn group_with_v1(group: &mut Value) -> bool {
    let v1 = json!({"groupVersion": V1, "version": "v1"});
    let ours = group["name"] == GROUP;
    match group.get_mut("versions").and_then(Value::as_array_mut) {
        Some(versions) if ours && !versions.contains(&v1) => versions.insert(0, v1.clone()),
        _ => return false,
    }
    group["preferredVersion"] = v1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(value: Value) -> Value {
        serde_json::from_slice(&answer(value.to_string().as_bytes())).unwrap()
    }

    fn endpoint(topology: Value) -> Value {
        json!({"addresses": ["192.0.2.11"], "conditions": {"ready": true}, "topology": topology})
    }

    #[test]
    fn paths() {
        let slices = |path: &str| Translation::Slices(path.to_owned());
        assert_eq!(of_path("/apis/discovery.k8s.io/v1"), slices("/apis/discovery.k8s.io/v1beta1"));
        assert_eq!(
            of_path("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"),
            slices("/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices")
        );
        assert_eq!(of_path("/apis/discovery.k8s.io/v1beta1/endpointslices"), Translation::None);
        assert_eq!(of_path("/api/v1/services"), Translation::None);
        assert_eq!(of_path("/apis/"), Translation::Groups);
    }

    #[test]
    fn lists_and_objects() {
        let topology = json!({HOSTNAME: "node-1", ZONE: "a", "topology.kubernetes.io/region": "r"});
        let slice = json!({"endpoints": [endpoint(topology)], "ports": null});
        let list = json!({"kind": "EndpointSliceList", "apiVersion": V1BETA1, "items": [slice.clone()]});
        let expected = json!({
            "addresses": ["192.0.2.11"], "conditions": {"ready": true}, "nodeName": "node-1", "zone": "a",
        });
        let list = translated(list);
        assert_eq!(list["apiVersion"], V1);
        assert_eq!(list["items"][0]["endpoints"][0], expected);
        let mut object = slice;
        object["apiVersion"] = json!(V1BETA1);
        assert_eq!(translated(object)["endpoints"][0], expected);
        let empty = json!({"apiVersion": V1BETA1, "items": null});
        assert_eq!(translated(empty), json!({"apiVersion": V1, "items": null}));
    }

    #[test]
    fn other_things_pass_unchanged() {
        for body in [r#"{ "kind":"Status","apiVersion":"v1" }"#, "404 page not found\n", "[1]", ""] {
            assert_eq!(answer(body.as_bytes()), body.as_bytes());
            assert_eq!(event_line(body.as_bytes()), body.as_bytes());
        }
        let error = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410}}"#;
        assert_eq!(event_line(error.as_bytes()), error.as_bytes());
    }

    #[test]
    fn discovery_names_v1_first() {
        let beta = json!({"groupVersion": V1BETA1, "version": "v1beta1"});
        let group = json!({"name": GROUP, "versions": [beta.clone()], "preferredVersion": beta});
        let other = json!({"name": "apps", "versions": []});
        let groups = translated(json!({"kind": "APIGroupList", "groups": [other, group.clone()]}));
        assert_eq!(groups["groups"][1]["versions"][0]["version"], "v1");
        assert_eq!(groups["groups"][1]["preferredVersion"]["version"], "v1");
        let mut one = group;
        one["kind"] = json!("APIGroup");
        assert_eq!(translated(one)["versions"].as_array().unwrap().len(), 2);
        assert_eq!(
            translated(json!({"kind": "APIResourceList", "groupVersion": V1BETA1}))["groupVersion"],
            V1
        );
    }

    #[test]
    fn writing_goes_the_other_way() {
        let v1 = json!({"apiVersion": V1, "endpoints": [{"addresses": ["192.0.2.11"], "nodeName": "n", "zone": "z"}]});
        let beta: Value = serde_json::from_slice(&request(v1.to_string().as_bytes())).unwrap();
        assert_eq!(beta["apiVersion"], V1BETA1);
        assert_eq!(beta["endpoints"][0]["topology"], json!({HOSTNAME: "n", ZONE: "z"}));
        assert_eq!(translated(beta), v1);
    }
}
