//! The real control plane in the lab: it comes up, publishes its apiservers, and its parts can be taken away.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::lab::{Families, Lab, LabOptions};
use integration::real::{APIVIP_TOKEN, Client, EndpointsBy, RealControlPlane, RealOptions};
use integration::sim::objects::Port;

/// A lease of 15 s, a round every 10 s, and time to spare.
const ENDPOINTS_LIMIT: Duration = Duration::from_secs(120);

fn addresses(control_plane: &RealControlPlane<'_>, numbers: &[u8]) -> Vec<SocketAddr> {
    numbers.iter().map(|i| control_plane.address(*i)).collect()
}

#[test]
fn three_apiservers_come_and_go() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let begin = Instant::now();
    let mut control_plane = RealControlPlane::start(&lab, RealOptions::default())?;
    println!("three apiservers were ready after {:?}", begin.elapsed());
    control_plane.wait_for_endpoints(&addresses(&control_plane, &[1, 2, 3]), ENDPOINTS_LIMIT)?;
    println!("the slices listed them after {:?}", begin.elapsed());

    let service = control_plane.client(2).get("/api/v1/namespaces/default/services/kubernetes")?;
    ensure!(service["spec"]["clusterIP"] == "10.96.0.1", "another virtual IP: {service}");

    let pod = Client::new(
        lab.pod(1),
        control_plane.address(3),
        control_plane.authority().certificate(),
        APIVIP_TOKEN,
    );
    pod.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")?;
    let forbidden = pod.status("GET", "/api/v1/namespaces/default/secrets")?;
    ensure!(forbidden == 403, "user apivip may read secrets: {forbidden}");
    let seen = control_plane.audit_source_ips(3, "apivip")?;
    ensure!(seen == ["10.244.0.11", "10.244.0.11"], "requests came from {seen:?}");

    let begin = Instant::now();
    control_plane.stop_apiserver(3)?;
    println!("apiserver 3 stopped after {:?}", begin.elapsed());
    control_plane.wait_for_endpoints(&addresses(&control_plane, &[1, 2]), ENDPOINTS_LIMIT)?;
    println!("the slices lacked it after {:?}", begin.elapsed());
    let begin = Instant::now();
    control_plane.start_apiserver(3)?;
    control_plane.wait_ready(3)?;
    println!("apiserver 3 was ready again after {:?}", begin.elapsed());
    control_plane.wait_for_endpoints(&addresses(&control_plane, &[1, 2, 3]), ENDPOINTS_LIMIT)?;

    control_plane.pause_apiserver(2)?;
    ensure!(!control_plane.client(2).is_ready(), "a paused apiserver answers");
    control_plane.resume_apiserver(2)?;
    control_plane.wait_ready(2)?;
    control_plane.kill_apiservers(&[2])?;
    ensure!(!control_plane.client(2).is_ready(), "a killed apiserver answers");
    control_plane.wait_for_endpoints(&addresses(&control_plane, &[1, 3]), ENDPOINTS_LIMIT)
}

#[test]
fn the_test_can_publish_both_families() -> Result<()> {
    let options = LabOptions { families: Families::Dual, apiservers: 1, ..LabOptions::default() };
    let lab = Lab::start(options)?;
    let options = RealOptions { endpoints: EndpointsBy::Test, ..RealOptions::default() };
    let control_plane = RealControlPlane::start(&lab, options)?;
    let client = control_plane.client(1);
    let (both, ports) = (lab.apiserver_addresses(1), [Port::new("https", 6443)]);
    client.publish(&both, &ports)?;
    client.publish(&[], &ports)?;
    ensure!(control_plane.endpoints()?.is_empty(), "endpoints are left");
    client.publish(&both, &ports)?;
    control_plane.wait_for_endpoints(
        &both.iter().map(|ip| SocketAddr::new(*ip, 6443)).collect::<Vec<_>>(),
        ENDPOINTS_LIMIT,
    )?;
    let service = client.get("/api/v1/namespaces/default/services/kubernetes")?;
    ensure!(service["spec"]["clusterIPs"] == serde_json::json!(["10.96.0.1", "fd00:10:96::1"]), "{service}");
    Ok(())
}

#[test]
fn one_family_may_be_ipv6() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::V6, apiservers: 1, ..LabOptions::default() })?;
    let control_plane = RealControlPlane::start(&lab, RealOptions::default())?;
    control_plane.wait_for_endpoints(&["[2001:db8::11]:6443".parse()?], ENDPOINTS_LIMIT)?;
    let service = control_plane.client(1).get("/api/v1/namespaces/default/services/kubernetes")?;
    ensure!(service["spec"]["clusterIP"] == "fd00:10:96::1", "another virtual IP: {service}");
    Ok(())
}
