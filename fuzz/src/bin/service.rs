//! A Service as the API sends it -> the table. Input: the JSON of one Service.

#![no_main]

use std::collections::BTreeMap;

use apivip::model::objects::{ClusterView, Endpoint, EndpointPort, EndpointSlice, ObjectMeta, Service};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(service) = serde_json::from_slice::<Service>(data) else { return };
    let slices = ["IPv4", "IPv6"].map(|family| slice(&service, family));
    let slices = BTreeMap::from(slices.map(|slice| (slice.metadata.name.clone(), slice)));
    apivip_fuzz::check(&ClusterView { service: Some(service), slices });
});

/// Endpoints that serve every port of the Service, and the Service's own addresses among them.
fn slice(service: &Service, family: &str) -> EndpointSlice {
    let known: &[&str] = match family {
        "IPv4" => &["192.0.2.11", "192.0.2.12", "192.0.2.13", "127.0.0.1"],
        _ => &["2001:db8::11", "2001:db8::12", "::1"],
    };
    let own = service.spec.cluster_ips.iter().chain([&service.spec.cluster_ip]).map(String::as_str);
    let endpoints = known
        .iter()
        .copied()
        .chain(own)
        .map(|address| Endpoint { addresses: vec![address.to_owned()], ..Endpoint::default() })
        .collect();
    let ports = service
        .spec
        .ports
        .iter()
        .map(|port| EndpointPort {
            name: port.name.clone(),
            port: Some(6443),
            protocol: port.protocol.clone(),
        })
        .collect();
    EndpointSlice {
        metadata: ObjectMeta { name: family.to_owned(), ..ObjectMeta::default() },
        address_type: family.to_owned(),
        endpoints,
        ports,
    }
}
