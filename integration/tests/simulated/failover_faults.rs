//! The harness itself, without any daemon: each fault is what its name says, seen by ordinary clients from the switch,
//! and heals; and clients of a healthy fleet report nothing else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::clients::{Clients, Mix};
use integration::command;
use integration::control_plane::{ControlPlane, Variant};
use integration::fault::Fault;
use integration::lab::addresses::before_port;
use integration::lab::{Families, Lab, LabOptions};
use integration::pki::SERVER_NAME;
use integration::sim::clients::timeline::End;

/// What curl says of one request, as its exit status and the HTTP status.
fn ask(lab: &Lab, plane: &ControlPlane<'_>, i: u8, path: &str, seconds: &str) -> Result<(i32, String)> {
    let address = lab.apiserver_addresses(i)[0];
    let host = before_port(address);
    let mut curl = lab.node().command("curl");
    curl.args(["-sS", "-m", seconds, "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
    curl.arg(plane.authority()).args(["--resolve", &format!("{SERVER_NAME}:6443:{host}")]);
    curl.arg(format!("https://{SERVER_NAME}:6443{path}"));
    let finished = command::finish(curl, "", command::COMMAND_LIMIT)?;
    Ok((finished.status.code().context("curl was killed")?, finished.stdout))
}

const REFUSED: i32 = 7;
const TIMED_OUT: i32 = 28;
const NOT_VERIFIED: i32 = 60;

fn expect(lab: &Lab, plane: &ControlPlane<'_>, i: u8, path: &str, exit: i32, status: &str) -> Result<()> {
    let seen = ask(lab, plane, i, path, if status == "slow" { "1" } else { "5" })?;
    let wanted = (exit, if exit == 0 { status } else { "000" }.to_owned());
    ensure!(seen == wanted, "{path} of apiserver {i}: {seen:?} instead of {wanted:?}");
    Ok(())
}

#[test]
fn each_fault_is_what_it_says_and_heals() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    for (fault, exit, status) in [
        (Fault::Paused, TIMED_OUT, "slow"),
        (Fault::Unplugged, TIMED_OUT, "slow"),
        (Fault::InboundLost, TIMED_OUT, "slow"),
        (Fault::OutboundLost, TIMED_OUT, "slow"),
        (Fault::UplinkDown, TIMED_OUT, "slow"),
        (Fault::Slow, TIMED_OUT, "slow"),
        (Fault::Flapping, REFUSED, ""),
        (Fault::Unready, 0, "500"),
        (Fault::ForeignCertificate, NOT_VERIFIED, ""),
        (Fault::Expired, NOT_VERIFIED, ""),
        (Fault::NotYetValid, NOT_VERIFIED, ""),
        (Fault::Killed, REFUSED, ""),
        (Fault::Stopped, REFUSED, ""),
    ] {
        let judge = || -> Result<()> {
            let inflicted = fault.inflict(&mut plane, &[2])?;
            if matches!(fault, Fault::Stopped | Fault::Flapping) {
                // Half a second of being unready, or until the shell has run nft.
                let mut asked = 0;
                while ask(&lab, &plane, 2, "/readyz", "5")?.0 != exit && asked < 100 {
                    asked += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            if fault != Fault::Flapping {
                expect(&lab, &plane, 2, "/readyz", exit, status)?;
            }
            if fault == Fault::Unready {
                expect(&lab, &plane, 2, "/version", 0, "200")?;
            }
            if fault != Fault::UplinkDown {
                expect(&lab, &plane, 1, "/readyz", 0, "200")?;
            }
            inflicted.heal(&mut plane)?;
            let mut asked = 0;
            while ask(&lab, &plane, 2, "/readyz", "5")? != (0, "200".to_owned()) {
                ensure!(asked < 5, "does not heal");
                asked += 1;
            }
            Ok(())
        };
        let mut judge = judge;
        judge().with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}

#[test]
fn clients_of_a_healthy_fleet_report_nothing_else() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    plane.serve_half_closed()?;
    let direct: Vec<IpAddr> = (1..=3).flat_map(|i| lab.apiserver_addresses(i)).collect();
    let targets: Vec<SocketAddr> = direct.into_iter().map(|ip| SocketAddr::new(ip, 6443)).collect();
    let mix = Mix { idle: 300, half_closed: 6, ..Mix::default() };
    for from in [lab.pod(1), lab.node()] {
        let mut clients = Clients::start(from, lab.dir(), from.name(), &plane, &targets, &mix)?;
        std::thread::sleep(Duration::from_secs(1));
        clients.stop()?;
        let timeline = clients.finish()?;
        let odd: Vec<_> = timeline.connections.iter().filter(|c| c.failed()).collect();
        ensure!(odd.is_empty(), "{} connections failed: {:?}", odd.len(), odd[0]);
        ensure!(timeline.fresh().count() >= 20, "only {} fresh connections", timeline.fresh().count());
        ensure!(timeline.fresh().all(|c| c.end == Some(End::Done)), "a fresh connection did not end");
        ensure!(timeline.kept().count() == 300 + 6 + 6 + 3 + 3, "{} were kept", timeline.kept().count());
        for target in &targets {
            ensure!(timeline.connections.iter().any(|c| c.target == *target), "nobody went to {target}");
        }
    }
    let counted = plane.fleet()?.on(1, |control| async move { control.stats().await })?;
    ensure!(counted.tls_done > 10, "apiserver 1 counted {counted:?}");
    Ok(())
}
