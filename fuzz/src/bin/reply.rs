//! What the kernel says -> the next transaction. Input: the bytes of netlink datagrams.

#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use apivip::model::objects::{ClusterView, Endpoint, EndpointPort, EndpointSlice, Service, ServicePort};
use apivip::nftables::decode::{self, ObservedTable};
use apivip::nftables::table::Table;
use apivip::nftables::{build, encode};
use apivip_fuzz::{desired, table::check_transaction};
use libfuzzer_sys::fuzz_target;

static TABLE: LazyLock<Table> = LazyLock::new(|| build::table(&desired(&view())));

fuzz_target!(|data: &[u8]| {
    let Ok(replies) = decode::parse(data) else { return };
    let mut observed = ObservedTable::default();
    replies.into_iter().for_each(|reply| observed.add(reply.content));
    check_transaction(&TABLE, &observed);
    let removal = encode::remove(&observed);
    assert_eq!(removal.len(), usize::from(observed.exists), "what is there is removed, and nothing else");
});

/// One virtual IP with three backends.
fn view() -> ClusterView {
    let mut service = Service::default();
    service.spec.cluster_ip = "10.96.0.1".to_owned();
    service.spec.ports = vec![ServicePort { name: String::new(), port: 443, protocol: String::new() }];
    let endpoint = |ip: &str| Endpoint { addresses: vec![ip.to_owned()], ..Endpoint::default() };
    let slice = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: ["192.0.2.11", "192.0.2.12", "192.0.2.13"].map(endpoint).to_vec(),
        ports: vec![EndpointPort { port: Some(6443), ..EndpointPort::default() }],
        ..EndpointSlice::default()
    };
    ClusterView { service: Some(service), slices: BTreeMap::from([("kubernetes".to_owned(), slice)]) }
}
