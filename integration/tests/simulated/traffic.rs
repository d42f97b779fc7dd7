//! What connections through the kernel's rules have carried, as far as the kernel counts it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command;
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use integration::sim::fleet::ECHO_SERVICE_PORT;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const ACCOUNTING: &str = "net/netfilter/nf_conntrack_acct";
/// So much goes each way.
const VOLUME: usize = 100_000;

/// A connection to the port that echoes, over which [`VOLUME`] went up and down.
fn carried(from: &Namespace, vip: SocketAddr) -> Result<TcpStream> {
    let mut stream = from.within(|| TcpStream::connect_timeout(&vip, LIMIT).context("connect"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut writer = stream.try_clone()?;
    let sender = std::thread::spawn(move || writer.write_all(&vec![b'x'; VOLUME]));
    let (mut echoed, mut buffer) = (0, [0; 4096]);
    while echoed < VOLUME {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "{vip} ended after {echoed} bytes");
        echoed += buffer[..read].iter().filter(|byte| **byte == b'x').count();
    }
    sender.join().ok().context("the sender panicked")??;
    Ok(stream)
}

/// One number of all backends of a virtual IP; `None` unless all have it.
fn sum(status: &Value, vip: SocketAddr, field: &str) -> Option<u64> {
    let frontends = status["frontends"].as_array()?;
    let frontend = frontends.iter().find(|frontend| frontend["vip"] == vip.to_string())?;
    frontend["backends"].as_array()?.iter().map(|backend| backend[field].as_u64()).sum()
}

fn vips(lab: &Lab) -> Vec<SocketAddr> {
    lab.vips().into_iter().map(|vip| SocketAddr::new(vip, ECHO_SERVICE_PORT)).collect()
}

#[test]
fn bytes_are_shown_while_the_kernel_counts_them() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    lab.node().sysctls(&[(ACCOUNTING, "0")])?;
    let mut daemon = scenario.daemon()?;
    let mut open = Vec::new();
    for (clients, accounting) in [(1, "0"), (2, "1"), (3, "0")] {
        lab.node().sysctls(&[(ACCOUNTING, accounting)])?;
        for vip in vips(&lab) {
            open.push(carried(lab.pod(1), vip)?);
        }
        for vip in vips(&lab) {
            let what = format!("{clients} open connections to {vip}");
            let status =
                daemon.wait_for_status(&what, LIMIT, |status| sum(status, vip, "open") == Some(clients))?;
            let backends = status["frontends"].to_string();
            if accounting == "0" {
                ensure!(sum(&status, vip, "bytes_up").is_none(), "bytes that nobody counts: {backends}");
                continue;
            }
            // The first connection began before the kernel counted. It may have the backend to itself.
            let counted = |field: &str| -> u64 {
                let frontends = status["frontends"].as_array().cloned().unwrap_or_default();
                let of = frontends.iter().filter(|frontend| frontend["vip"] == vip.to_string());
                let backends = of.filter_map(|frontend| frontend["backends"].as_array()).flatten();
                backends.filter_map(|backend| backend[field].as_u64()).sum()
            };
            for field in ["bytes_up", "bytes_down"] {
                let bytes = counted(field);
                // Headers come on top, and what was sent twice.
                let volume = VOLUME as u64;
                ensure!((volume..2 * volume).contains(&bytes), "{field} of {vip} is {bytes}: {backends}");
            }
        }
    }
    let mut status = lab.node().command(command::program("apivip")?);
    status.args(["status", "-o", "wide", "--run-dir"]).arg(lab.dir().join("run"));
    let wide = command::finish(status, "", LIMIT)?.stdout;
    let head = wide.lines().find(|line| line.contains("BACKEND")).context(wide.clone())?;
    ensure!(["OPEN", "UP", "DOWN"].iter().all(|title| head.contains(title)), "{wide}");
    Ok(())
}
