//! The cluster's CA is replaced as it should be: first everybody trusts the old and the new one, then one apiserver after
//! the other shows a certificate of the new one, then the old one goes. No connection and no probe fails.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command;
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions, every_backend};
use integration::kubeconfig::{self, Kubeconfig, User};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::load::Load;
use integration::pki::{Authority, SERVER_NAME, Validity};
use serde_json::Value;

/// It takes two seconds.
const LIMIT: Duration = Duration::from_secs(60);
const RECONNECTS: &str = "apivip_api_reconnects_total";
const RENEWED: &str = "event=ca_renewed";

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).context("replace the CA")
}

/// Waits until the daemon has read the file for the nth time.
fn wait_for_renewal(daemon: &mut Daemon, count: usize) -> Result<()> {
    daemon.process().wait_until(RENEWED, LIMIT, |process| {
        let log = format!("{}{}", process.stdout(), process.stderr());
        Ok((log.lines().filter(|line| line.contains(RENEWED)).count() >= count).then_some(()))
    })
}

/// Whether a client that trusts `authority` alone gets an answer there.
fn answers(lab: &Lab, authority: &Authority, at: IpAddr, port: u16) -> Result<()> {
    let host = addresses::before_port(at);
    let mut curl = lab.pod(1).command("curl");
    curl.args(["-sS", "-o", "/dev/null", "-m", "5", "--noproxy", "*", "--cacert"])
        .arg(authority.certificate());
    curl.args(["--resolve", &format!("{SERVER_NAME}:{port}:{host}")]);
    curl.arg(format!("https://{SERVER_NAME}:{port}/readyz"));
    command::run(curl, "").with_context(|| format!("ask {host} port {port}")).map(drop)
}

fn settled(status: &Value) -> bool {
    status["api"]["state"] == "synced" && every_backend(status).all(|backend| backend["state"] == "healthy")
}

pub(crate) fn no_connection_fails(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, variant)?;
    let (ca, path) = (lab.dir().join("bundle.crt"), lab.dir().join("rotated.kubeconfig"));
    let old = fs::read_to_string(plane.authority()).context("read the CA")?;
    let new = Authority::new(lab.dir(), "next-ca")?;
    replace(&ca, &old)?;
    let server = format!("https://{}", plane.apiservers(1)[0]);
    let user = User::Token(plane.token().to_owned());
    Kubeconfig::new(server, kubeconfig::Authority::File(ca.clone()), user).write(&path)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(path))?;
    daemon.wait_for_status("a settled node", LIMIT, settled)?;
    let vips: Vec<SocketAddr> = lab.vips().iter().map(|vip| SocketAddr::new(*vip, SERVICE_PORT)).collect();
    let load = Load::start(lab.pod(1), lab.dir(), "load", "tcp", &vips, 200)?;

    replace(&ca, &format!("{old}{}", new.pem()))?;
    wait_for_renewal(&mut daemon, 1)?;
    // Each real one takes its time by itself.
    let turns: &[&[u8]] = if plane.is_simulated() { &[&[1], &[2], &[3]] } else { &[&[1, 2, 3]] };
    for numbers in turns {
        plane.show_certificates(numbers, Some(&new), Validity::Now)?;
        for address in numbers.iter().flat_map(|i| plane.apiservers(*i)) {
            answers(&lab, &new, address.ip(), address.port())?;
        }
        daemon.wait_for_status("the API and all probes", LIMIT, settled)?;
    }
    replace(&ca, new.pem())?;
    wait_for_renewal(&mut daemon, 2)?;

    // From here on every connection is one that knows the new one alone.
    let before = daemon.metric(RECONNECTS)?;
    plane.end_connections()?;
    daemon.wait_for_metric(RECONNECTS, LIMIT, |count| count > before)?;
    let status = daemon.wait_for_status("the API and all probes", LIMIT, settled)?;
    for vip in &vips {
        answers(&lab, &new, vip.ip(), vip.port())?;
    }
    load.finish_clean()?;
    let condemned = status["transitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|t| t["to"] != "healthy" && t["to"] != "draining");
    ensure!(condemned.count() == 0, "{:#}\n{}", status["transitions"], daemon.log());
    plane.publish_apiservers(&[1, 3])?;
    plane.wait_until_served(&mut daemon, &[1, 3])?;
    ensure!(daemon.metric("apivip_api_relists_total")? == 0, "events were lost\n{}", daemon.log());
    Ok(())
}
