//! One etcd for all apiservers, in the lab's switch, so that no apiserver's cable or process takes it along.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Lab, addresses};
use crate::process::Spawned;

/// Longest until it serves. It usually takes half a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts it and waits until it serves. Returns its URL as well.
pub(super) fn start(lab: &Lab) -> Result<(Spawned, String)> {
    let family = lab.families()[0];
    let client = format!("http://{}", SocketAddr::new(addresses::router(family), 2379));
    let peer = format!("http://{}", SocketAddr::new(addresses::router(family), 2380));
    let data = lab.dir().join("etcd");
    fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
    let mut command = lab.fabric().command(super::cached("etcd")?);
    command.args(["--name", "lab", "--logger", "zap", "--log-level", "warn"]);
    // The data dies with the lab, so it may be lost with the machine.
    command.env("ETCD_UNSAFE_NO_FSYNC", "true").arg("--data-dir").arg(&data);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("lab={peer}")]);
    let mut process = Spawned::start("etcd", command, lab.dir())?;
    let health = format!("{client}/health");
    process.wait_until("etcd to serve", LIMIT, |_| {
        let answer = lab.fabric().run("curl", &["-sS", "--noproxy", "*", "--max-time", "2", &health]);
        Ok(answer.ok().filter(|text| text.contains("true")))
    })?;
    Ok((process, client))
}
