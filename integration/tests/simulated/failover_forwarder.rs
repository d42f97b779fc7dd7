//! The forwarder serves the virtual IP and its own addresses, and something happens to an apiserver: clients of a dead one
//! are told by a reset, those of one that drains are left alone, and new connections go elsewhere.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::clients::Mix;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::failover::trial::{lab, leave_with, mix};
use integration::failover::{Crowd, Failover};
use integration::fault::Fault;
use integration::forwarder::LISTEN;
use integration::lab::{Families, Lab};

/// Whom something happens to.
const CONCERNED: u8 = 2;
/// The apiservers, and those of them that nothing happens to.
const ALL: [u8; 3] = [1, 2, 3];
const OTHERS: [u8; 2] = [1, 3];
/// Longer than several questions for `/readyz`.
const UNREADY: Duration = Duration::from_secs(4);
const RESETS: &str = "apivip_forwarder_resets_total{cause=\"backend_down\"}";

fn start(lab: &Lab) -> Result<Failover<'_>> {
    // All the crowd is at one apiserver, and its daemon unoptimised: on a busy machine some probes are late.
    let mut arguments = vec!["--mode", "forwarder", "--readyz-interval", "1s", "--probe-fall", "6"];
    arguments.extend(LISTEN.iter().flat_map(|address| ["--listen", address]));
    Failover::start(lab, Variant::Simulated, &ALL, &arguments)
}

/// Clients in the Pod, and on the node where they also dial the node-local endpoints.
fn everybody(stage: &Failover<'_>, mix: &Mix) -> Result<Crowd> {
    let vips: Vec<SocketAddr> =
        stage.lab.vips().into_iter().map(|ip| SocketAddr::new(ip, SERVICE_PORT)).collect();
    let mut node = vips.clone();
    for address in LISTEN {
        node.push(address.parse().context("parse an address to listen on")?);
    }
    stage.crowd_at(&[(stage.lab.pod(1), vips), (stage.lab.node(), node)], mix)
}

/// Clients that all have to do with the one, and others that have not: each crowd comes while only its apiservers get
/// new connections.
fn divided(stage: &mut Failover<'_>) -> Result<Crowd> {
    let own = stage.plane.apiservers(CONCERNED)[0];
    let other = stage.plane.apiservers(OTHERS[0])[0];
    stage.plane.publish_apiservers(&[CONCERNED])?;
    stage.wait_for_backends(&[CONCERNED])?;
    let concerned = everybody(stage, &mix())?.redirected_to(own);
    stage.plane.publish_apiservers(&ALL)?;
    let drains = Fault::Unready.inflict(&mut stage.plane, &[CONCERNED])?;
    stage.wait_for_backends(&OTHERS)?;
    let others = everybody(stage, &Mix { fresh_every: None, ..mix() })?.redirected_to(other);
    drains.heal(&mut stage.plane)?;
    stage.wait_for_backends(&ALL)?;
    Ok(concerned.joined(others))
}

fn told(fault: Fault) -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = start(&lab)?;
    let crowd = divided(&mut stage)?;
    ensure!(stage.daemon.metric(RESETS)? == 0, "the forwarder reset clients of an apiserver that drained");
    let (outcome, inflicted) = leave_with(&mut stage, fault, &[CONCERNED], crowd)?;
    let dead = lab.apiserver_addresses(CONCERNED);
    let (flows, resets) = (outcome.notified(&dead, None).flows as u64, stage.daemon.metric(RESETS)?);
    ensure!(resets >= flows, "{resets} resets for {flows} connections to the dead apiserver");
    stage.wait_for_backends(&OTHERS)?;
    inflicted.heal(&mut stage.plane)?;
    stage.wait_for_backends(&ALL)
}

#[test]
fn clients_of_an_unplugged_apiserver_are_told() -> Result<()> {
    told(Fault::Unplugged)
}

#[test]
fn clients_of_a_paused_apiserver_are_told() -> Result<()> {
    told(Fault::Paused)
}

#[test]
fn clients_of_an_unready_apiserver_are_left_alone() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = start(&lab)?;
    let mut crowd = divided(&mut stage)?;
    let inflicted = stage.inflict(&mut crowd, Fault::Unready, &[CONCERNED])?;
    stage.wait_for_backends(&OTHERS)?;
    thread::sleep(UNREADY);
    inflicted.heal(&mut stage.plane)?;
    stage.wait_for_backends(&ALL)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let whole = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(whole)?;
    ensure!(stage.daemon.metric(RESETS)? == 0, "the forwarder reset connections\n{}", stage.daemon.log());
    Ok(())
}
