use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::objects::EndpointSlice;

fn service(spec: serde_json::Value) -> Option<Service> {
    Some(serde_json::from_value(json!({"metadata": {"name": "kubernetes"}, "spec": spec})).unwrap())
}

fn plain_service() -> Option<Service> {
    service(json!({
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
        "ports": [{"name": "https", "port": 443, "protocol": "TCP"}],
    }))
}

fn slice(family: &str, endpoints: serde_json::Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn view(service: Option<Service>, slices: Vec<EndpointSlice>) -> ClusterView {
    let slices = slices.into_iter().enumerate().map(|(i, s)| (format!("kubernetes-{i}"), s)).collect();
    ClusterView { service, slices }
}

fn build(view: &ClusterView) -> Snapshot {
    Snapshot::build(view, SnapshotOptions::default(), 1)
}

fn backends_of(snapshot: &Snapshot, vip: &str) -> Vec<String> {
    let vip: Vip = vip.parse().unwrap();
    let frontend = snapshot.frontends.iter().find(|f| f.vip == vip).unwrap();
    frontend.backends.iter().map(ToString::to_string).collect()
}

#[test]
fn every_cluster_ip_gets_the_backends_of_its_family() {
    let snapshot = build(&view(
        plain_service(),
        vec![
            slice("IPv4", json!([{"addresses": ["192.0.2.12"]}, {"addresses": ["192.0.2.11"]}])),
            slice("IPv6", json!([{"addresses": ["2001:db8::11"]}])),
            slice("IPv4", json!([{"addresses": ["192.0.2.11"]}])),
        ],
    ));
    assert_eq!(snapshot.service, ServiceStatus::Found);
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443"), ["192.0.2.11:6443", "192.0.2.12:6443"]);
    assert_eq!(backends_of(&snapshot, "[fd00:10:96::1]:443"), ["[2001:db8::11]:6443"]);
    assert!(snapshot.rejected.is_empty());
}

#[test]
fn ports_are_matched_by_name() {
    let service = service(json!({
        "clusterIP": "10.96.0.1",
        "ports": [{"name": "https", "port": 443}, {"name": "other", "port": 8443}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    }));
    let mut slice = slice("IPv4", json!([{"addresses": ["192.0.2.11"]}]));
    slice.ports = serde_json::from_value(json!([
        {"name": "other", "port": 9443}, {"name": "https", "port": 6443}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]))
    .unwrap();
    let snapshot = build(&view(service, vec![slice]));
    assert_eq!(snapshot.frontends.len(), 2);
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443"), ["192.0.2.11:6443"]);
    assert_eq!(backends_of(&snapshot, "10.96.0.1:8443"), ["192.0.2.11:9443"]);
}

#[test]
fn an_endpoint_whose_ports_all_have_other_names_is_left_out_by_name() {
    let mut renamed = slice("IPv4", json!([{"addresses": ["192.0.2.11"]}]));
    renamed.ports = serde_json::from_value(json!([
        {"name": "api", "port": 6443}, {"name": "https", "port": 443, "protocol": "UDP"},
    ]))
    .unwrap();
    let mut none = slice("IPv4", json!([{"addresses": ["192.0.2.12"]}]));
    none.ports.clear();
    let snapshot = build(&view(
        plain_service(),
        vec![renamed, none, slice("IPv4", json!([{"addresses": ["192.0.2.13"]}]))],
    ));
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443"), ["192.0.2.13:6443"]);
    let rejected: Vec<String> = snapshot.rejected.iter().map(ToString::to_string).collect();
    let words = "is in an EndpointSlice without a TCP port that has the name of a port of the Service";
    assert_eq!(rejected, [format!("192.0.2.11 port 6443: {words}"), format!("192.0.2.12: {words}")]);
}

#[test]
fn bad_addresses_are_left_out_one_by_one() {
    let bad = [
        ("10.96.0.1", RejectReason::IsVip),
        ("0.0.0.0", RejectReason::Unspecified),
        ("127.0.0.1", RejectReason::Loopback),
        ("169.254.0.1", RejectReason::LinkLocal),
        ("224.0.0.1", RejectReason::Multicast),
        ("255.255.255.255", RejectReason::Reserved),
        ("2001:db8::11", RejectReason::WrongFamily),
        ("apiserver.example", RejectReason::NotAnAddress),
    ];
    let mut addresses: Vec<_> = bad.iter().map(|(a, _)| json!({"addresses": [a]})).collect();
    addresses.push(json!({"addresses": ["192.0.2.11"]}));
    let snapshot = build(&view(plain_service(), vec![slice("IPv4", json!(addresses))]));
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443"), ["192.0.2.11:6443"]);
    for (address, reason) in bad {
        let rejection = Rejection { address: address.to_owned(), port: None, reason };
        assert!(snapshot.rejected.contains(&rejection), "{rejection} is not in {:?}", snapshot.rejected);
    }
    assert_eq!(snapshot.rejected.len(), bad.len());
}

#[test]
fn bad_ipv6_addresses_ports_and_slices_are_left_out() {
    let mut zero = slice("IPv6", json!([{"addresses": ["2001:db8::11"]}]));
    zero.ports[0].port = Some(0);
    let mut none = slice("IPv6", json!([{"addresses": ["2001:db8::12"]}]));
    none.ports[0].port = None;
    let snapshot = build(&view(
        plain_service(),
        vec![
            slice(
                "IPv6",
                json!([{"addresses": ["fe80::1"]}, {"addresses": ["::ffff:192.0.2.1"]}, {"addresses": ["::"]}]),
            ),
            slice("FQDN", json!([{"addresses": ["apiserver.example"]}])),
            zero,
            none,
        ],
    ));
    let reasons: Vec<_> = snapshot.rejected.iter().map(|r| r.reason).collect();
    for reason in [
        RejectReason::LinkLocal,
        RejectReason::MappedIpv4,
        RejectReason::Unspecified,
        RejectReason::NotAnIpSlice,
        RejectReason::PortZero,
        RejectReason::NoPort,
    ] {
        assert!(reasons.contains(&reason), "{reason:?} is not in {reasons:?}");
    }
    assert!(snapshot.backends().is_empty());
}

#[test]
fn loopback_may_be_allowed() {
    let view = view(plain_service(), vec![slice("IPv4", json!([{"addresses": ["127.0.0.1"]}]))]);
    let snapshot = Snapshot::build(&view, SnapshotOptions { allow_loopback: true }, 1);
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443"), ["127.0.0.1:6443"]);
}

#[test]
fn endpoints_that_are_not_ready_get_nothing_unless_only_terminating_ones_are_left() {
    let ready = json!({"addresses": ["192.0.2.11"], "conditions": {"ready": true}});
    let serving = json!({"addresses": ["192.0.2.12"], "conditions": {"ready": false, "serving": true}});
    let gone = json!({"addresses": ["192.0.2.13"], "conditions": {"ready": false}});
    let both = build(&view(plain_service(), vec![slice("IPv4", json!([ready, serving, gone]))]));
    assert_eq!(backends_of(&both, "10.96.0.1:443"), ["192.0.2.11:6443"]);
    let last = build(&view(plain_service(), vec![slice("IPv4", json!([serving, gone]))]));
    assert_eq!(backends_of(&last, "10.96.0.1:443"), ["192.0.2.12:6443"]);
}

#[test]
fn a_service_without_virtual_ip_says_why() {
    let headless = build(&view(service(json!({"clusterIP": "None", "ports": [{"port": 443}]})), vec![]));
    assert_eq!(headless.service, ServiceStatus::Headless);
    assert_eq!(build(&view(None, vec![])).service, ServiceStatus::Missing);
    let no_port = build(&view(service(json!({"clusterIP": "10.96.0.1", "ports": null})), vec![]));
    assert_eq!(no_port.service, ServiceStatus::Unusable);
    let bad_vip = build(&view(service(json!({"clusterIP": "127.0.0.1", "ports": [{"port": 443}]})), vec![]));
    assert_eq!(bad_vip.service, ServiceStatus::Unusable);
    assert_eq!(bad_vip.rejected.len(), 1);
}

#[test]
fn more_than_the_kernel_is_asked_to_hold_is_left_out() {
    let many: Vec<_> = (1..=100).map(|i| json!({"addresses": [format!("192.0.2.{i}")]})).collect();
    let snapshot = build(&view(plain_service(), vec![slice("IPv4", json!(many))]));
    assert_eq!(backends_of(&snapshot, "10.96.0.1:443").len(), MAX_BACKENDS);
    let too_many = snapshot.rejected.iter().filter(|r| r.reason == RejectReason::TooMany).count();
    assert_eq!(too_many, 100 - MAX_BACKENDS);
}

fn any_address() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|o| std::net::Ipv4Addr::from(o).to_string()),
        any::<[u8; 16]>().prop_map(|o| std::net::Ipv6Addr::from(o).to_string()),
        prop::sample::select(vec![
            "10.96.0.1",
            "fd00:10:96::1",
            "127.0.0.1",
            "::1",
            "fe80::1",
            "192.0.2.11",
            "x",
            ""
        ])
        .prop_map(str::to_owned),
    ]
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let family = prop::sample::select(vec!["IPv4", "IPv6", "FQDN", ""]);
    let port = prop_oneof![Just(None), (-2i64..70000).prop_map(Some), Just(Some(6443))];
    let name = prop::sample::select(vec!["https", "", "other"]);
    (family, prop::collection::vec(any_address(), 0..6), port, name).prop_map(
        |(family, addresses, port, name)| {
            let endpoints: Vec<_> = addresses.iter().map(|a| json!({"addresses": [a]})).collect();
            serde_json::from_value(json!({
                "addressType": family, "endpoints": endpoints, "ports": [{"name": name, "port": port}],
            }))
            .unwrap()
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_published_no_backend_can_loop_or_break_the_node(slices in prop::collection::vec(any_slice(), 0..5)) {
        let snapshot = build(&view(plain_service(), slices));
        let vips = snapshot.vip_addresses();
        for frontend in &snapshot.frontends {
            prop_assert!(frontend.backends.is_sorted_by(|a, b| a < b));
            for backend in &frontend.backends {
                let ip = backend.ip();
                prop_assert!(!vips.contains(&ip) && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast());
                prop_assert!(backend.port() != 0);
                prop_assert_eq!(ip.is_ipv4(), frontend.vip.is_ipv4());
            }
        }
    }

    #[test]
    fn the_order_of_slices_does_not_matter(slices in prop::collection::vec(any_slice(), 0..5)) {
        let mut reversed = slices.clone();
        reversed.reverse();
        let names = |slices: Vec<EndpointSlice>| -> BTreeMap<String, EndpointSlice> {
            slices.into_iter().enumerate().map(|(i, s)| (i.to_string(), s)).collect()
        };
        let of = |slices| ClusterView { service: plain_service(), slices: names(slices) };
        prop_assert_eq!(build(&of(slices)), build(&of(reversed)));
    }
}
