//! Clients that dial a virtual IP before it is served: the same SYN that conntrack remembers as untranslated must get
//! through as soon as it is.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::SERVICE_PORT;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::forwarder::echo_vips;
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use integration::sim::fleet::ECHO_PORT;
use integration::sim::objects::Port;

/// A client's own patience.
const LIMIT: Duration = Duration::from_secs(60);
/// SYNs go out each second at first, and 2 s apart from the sixth on.
const SOON: Duration = Duration::from_secs(3);
/// So long clients dial in vain.
const VAIN: Duration = Duration::from_millis(2500);

/// Routers that say nothing of addresses that they do not know, and a firewall on the node that looks at conntrack.
fn silent_router_and_firewall(lab: &Lab) -> Result<()> {
    lab.fabric().sysctls(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    let drops: String = lab
        .vips()
        .iter()
        .map(|vip| {
            let ip = if vip.is_ipv4() { "ip" } else { "ip6" };
            format!("add rule inet silent f {ip} daddr {vip} drop\n")
        })
        .collect();
    lab.fabric().nft_load(&format!(
        "add table inet silent\nadd chain inet silent f {{ type filter hook prerouting priority -300; }}\n{drops}"
    ))?;
    lab.node().nft_load(
        "table inet firewall {\n chain f {\n type filter hook forward priority 0\n ct state established accept\n }\n \
         chain o {\n type filter hook output priority 0\n ct state established accept\n }\n}\n",
    )
}

/// How long after `since` the connection was made.
fn dial(from: &Namespace, target: SocketAddr) -> Result<Instant> {
    from.within(|| {
        TcpStream::connect_timeout(&target, LIMIT)
            .with_context(|| format!("dial {target} from {}", from.name()))?;
        Ok(Instant::now())
    })
}

/// Lets pod and node dial all `targets`, serves after a while, and fails unless all connect soon afterwards.
fn early_clients(
    lab: &Lab,
    targets: &[SocketAddr],
    serve: impl FnOnce() -> Result<Daemon>,
) -> Result<Daemon> {
    thread::scope(|scope| {
        let clients: Vec<_> = targets
            .iter()
            .flat_map(|target| [lab.pod(1), lab.node()].map(|from| (from, *target)))
            .map(|(from, target)| (from, target, scope.spawn(move || dial(from, target))))
            .collect();
        thread::sleep(VAIN);
        let served = serve();
        let since = Instant::now();
        let daemon = served?;
        for (from, target, client) in clients {
            let connected = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            let after = connected.saturating_duration_since(since);
            ensure!(
                after <= SOON,
                "{} reached {target} only {after:?} after it was served\n{}",
                from.name(),
                daemon.log()
            );
        }
        Ok(daemon)
    })
}

fn vips(lab: &Lab) -> Vec<SocketAddr> {
    lab.vips().into_iter().map(|ip| SocketAddr::new(ip, SERVICE_PORT)).collect()
}

#[test]
fn who_dials_before_the_first_rules_connects_once_they_stand() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    silent_router_and_firewall(&lab)?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    early_clients(&lab, &vips(&lab), || scenario.daemon())?;
    Ok(())
}

#[test]
fn who_dials_before_the_first_endpoints_or_before_a_port_is_published_connects_once_they_are() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    silent_router_and_firewall(&lab)?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[])?;
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    daemon.wait_for_phase("waiting", LIMIT)?;
    let first = SocketAddr::new(addresses::VIP_V4.into(), SERVICE_PORT);
    let all = |port: u16| -> Vec<SocketAddr> {
        (1..=3).flat_map(|i| lab.apiserver_addresses(i)).map(|ip: IpAddr| SocketAddr::new(ip, port)).collect()
    };
    let mut daemon = early_clients(&lab, &[first], || {
        scenario.plane.publish_apiservers(&[1, 2, 3])?;
        daemon.wait_for_backends(first, &all(6443))?;
        Ok(daemon)
    })?;
    let port = 1234;
    let more = SocketAddr::new(first.ip(), port);
    ensure!(!echo_vips(&lab).contains(&more), "{more} is served already");
    early_clients(&lab, &[more], || {
        scenario.plane.publish_beside(&[1, 2, 3], Port::new("more", port), Port::new("more", ECHO_PORT))?;
        daemon.wait_for_backends(more, &all(ECHO_PORT))?;
        Ok(daemon)
    })?;
    Ok(())
}

#[test]
fn who_dials_before_the_forwarder_connects_though_the_address_was_masqueraded() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    silent_router_and_firewall(&lab)?;
    lab.node().nft_load(
        "table ip cni {\n chain p {\n type nat hook postrouting priority 100\n ip saddr 10.244.0.0/16 oifname \"eth0\" \
         masquerade\n }\n}\n",
    )?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--mode").arg("forwarder");
    early_clients(&lab, &vips(&lab), || scenario.daemon())?;
    Ok(())
}
