//! While the forwarder serves, nothing of the node but the Service's TCP ports is reachable at the virtual IP, and rules of
//! others for local addresses do not take it: with rules that can no longer be changed, and without any.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::daemon::Daemon;
use integration::forwarder::Stage;
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::netns::Namespace;
use integration::nftfault::Fault;

/// Longer than a connection over a few veths ever takes.
const SHORT: Duration = Duration::from_millis(800);
const PORT: u16 = 2222;

/// Servers of the node on all its addresses, by TCP and UDP. They end with the test.
fn serve_on_all(node: &Namespace) -> Result<()> {
    let (tcp, udp) = node.within(|| {
        let any = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), PORT);
        Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?))
    })?;
    thread::spawn(move || for _ in tcp.incoming().flatten() {});
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = udp.recv_from(&mut byte) {
            let _ = udp.send_to(b"x", from);
        }
    });
    Ok(())
}

fn reaches(from: &Namespace, ip: IpAddr) -> Result<[bool; 2]> {
    let target = SocketAddr::new(ip, PORT);
    from.within(|| {
        let tcp = TcpStream::connect_timeout(&target, SHORT).is_ok();
        let any: SocketAddr = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
        let udp = UdpSocket::bind(any)?;
        udp.set_read_timeout(Some(SHORT))?;
        udp.send_to(b"x", target)?;
        Ok([tcp, udp.recv_from(&mut [0]).is_ok()])
    })
}

/// The forwarder serves, with a fault in place of rules that were there first.
fn forwarding<'lab>(lab: &'lab Lab, mode: &str, fault: Option<Fault>) -> Result<(Stage<'lab>, Daemon)> {
    let stage = Stage::start(lab, mode)?;
    let mut daemon = stage.daemon(if fault.is_some() { "nftables" } else { "forwarder" })?;
    if let Some(fault) = fault {
        stage.faults.set(fault)?;
        stage.scenario.plane.publish_apiservers(&[2, 3])?;
        daemon.wait_for_dataplane("forwarder", Duration::from_secs(60))?;
    }
    Ok((stage, daemon))
}

fn only_the_services_ports(mode: &str, fault: Option<Fault>) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    serve_on_all(lab.node())?;
    let (stage, _daemon) = forwarding(&lab, mode, fault)?;
    for family in lab.families().iter().copied() {
        ensure!(
            reaches(lab.pod(1), addresses::node(family))? == [true, true],
            "{mode}: the servers are not there for {family}"
        );
        let seen = reaches(lab.pod(1), addresses::vip(family))?;
        ensure!(
            seen == [false, false],
            "{mode} {fault:?}: TCP and UDP of the node at the virtual IP: {seen:?}"
        );
    }
    stage.expect_forwarded(&format!("{mode} {fault:?}"))
}

#[test]
fn alone_it_takes_the_services_ports_only() -> Result<()> {
    only_the_services_ports("forwarder", None)
}

#[test]
fn beside_rules_that_cannot_be_changed_everything_else_is_dropped() -> Result<()> {
    only_the_services_ports("auto", Some(Fault::Failing))
}

/// Other rules lead port 443 of every local address to a Pod, as a hostPort does.
fn host_port(lab: &Lab) -> Result<()> {
    let pod = addresses::pod(2, apivip::model::types::Family::V4);
    let chain = |name: &str, hook: &str| {
        format!(
            "chain {name} {{\n type nat hook {hook} priority -100\n fib daddr type local tcp dport 443 dnat to {pod}:8443\n }}\n"
        )
    };
    let (prerouting, output) = (chain("p", "prerouting"), chain("o", "output"));
    lab.node().nft_load(&format!("table ip hostports {{\n {prerouting} {output} }}\n"))
}

fn no_host_port_takes_it(mode: &str, fault: Option<Fault>) -> Result<()> {
    let lab = Lab::start(LabOptions { pods: 2, ..LabOptions::default() })?;
    host_port(&lab)?;
    let listener = lab.pod(2).within(|| Ok(TcpListener::bind("0.0.0.0:8443")?))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1]);
        }
    });
    let (stage, _daemon) = forwarding(&lab, mode, fault)?;
    stage.expect_forwarded("beside a hostPort").with_context(|| format!("{mode} {fault:?}"))
}

#[test]
fn a_host_port_does_not_take_the_virtual_ip() -> Result<()> {
    no_host_port_takes_it("forwarder", None)?;
    no_host_port_takes_it("auto", Some(Fault::Failing))
}

#[test]
fn nodes_that_want_no_ipv6_on_new_devices_are_served_in_both_families() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    lab.node().sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let stage = Stage::start(&lab, "forwarder")?;
    let _daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("with net.ipv6.conf.default.disable_ipv6=1")
}
