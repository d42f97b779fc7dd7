//! The virtual IP as a local address of the node: by a route it belongs to a listener there, without any commit; on an
//! interface, as kube-proxy's IPVS mode has it, it still leads to apiservers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command::program;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::neighbour::Neighbour;
use integration::netns::Namespace;
use integration::process::Spawned;
use integration::scenario::{Scenario, commits, guarded};
use integration::sim::access_log::{self, What};
use integration::sim::control::Control;
use integration::sim::fleet::TOKEN;

const LIMIT: Duration = Duration::from_secs(20);

/// A server on the node that listens on the virtual IPs themselves.
struct Listener {
    _process: Spawned,
    access_log: PathBuf,
}

impl Listener {
    /// Starts it with the certificate of apiserver 1, which has the virtual IPs' names.
    fn start(lab: &Lab) -> Result<Self> {
        let file = |name: &str| lab.dir().join(name);
        let (control, access_log) = (file("listener.sock"), file("listener.access"));
        // A local route alone does not let a program bind an IPv6 address.
        lab.node().sysctl("net.ipv6.ip_nonlocal_bind", "1")?;
        let mut command = lab.node().command(program("sim-apiserver")?);
        command.args(["--name", "listener", "--token", TOKEN]);
        for family in lab.families() {
            command.arg("--listen").arg(SocketAddr::new(addresses::vip(*family), SERVICE_PORT).to_string());
        }
        command.arg("--cert").arg(file("apiserver-1.crt")).arg("--key").arg(file("apiserver-1.key"));
        command.arg("--control").arg(&control).arg("--access-log").arg(&access_log);
        let process = Spawned::start("listener", command, lab.dir())?;
        let ready = Control::new(control);
        tokio::runtime::Runtime::new()?.block_on(ready.wait_ready(LIMIT)).with_context(|| process.tail())?;
        Ok(Self { _process: process, access_log })
    }

    /// How many connections it has accepted.
    fn accepted(&self) -> Result<usize> {
        Ok(access_log::read(&self.access_log)?.iter().filter(|entry| entry.what == What::Connection).count())
    }

    /// Fails unless it gets every connection of these clients in every family.
    fn gets_all(&self, what: &str, lab: &Lab, scenario: &Scenario<'_>, clients: &[&Namespace]) -> Result<()> {
        for family in lab.families().iter().copied() {
            for from in clients {
                for _ in 0..4 {
                    let before = self.accepted()?;
                    scenario.plane.fetch(from, addresses::vip(family)).with_context(|| what.to_owned())?;
                    // The daemon tests itself through the virtual IP meanwhile, now and then.
                    let more = self.accepted()? - before;
                    ensure!(more > 0, "{what}: the listener did not get a connection from {}", from.name());
                }
            }
        }
        Ok(())
    }
}

fn local_routes(lab: &Lab, verb: &str) -> Result<()> {
    for family in lab.families() {
        lab.node().run("ip", &["route", verb, "local", &addresses::vip(*family).to_string(), "dev", "lo"])?;
    }
    Ok(())
}

#[test]
fn a_local_route_leads_to_a_listener_and_back_without_a_commit() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    local_routes(&lab, "add")?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let listener = Listener::start(&lab)?;
    local_routes(&lab, "del")?;
    let daemon = scenario.daemon()?;
    ensure!(guarded(&daemon.status()?, true), "{:#}", daemon.status()?);
    scenario.expect_everybody("before the local route")?;
    let before = commits(&daemon)?;
    let (pod, node) = (lab.pod(1), lab.node());
    for (neighbour, clients) in [
        (None, &[pod, node] as &[&Namespace]),
        (Some(Neighbour::KubeProxyNftTranslation), &[pod, node]),
        // Its checks in the output hook reject whatever the node itself still addresses to a virtual IP after the
        // translation, so the listener is left to pods and other hosts.
        (Some(Neighbour::KubeProxyNft), &[pod]),
    ] {
        if let Some(neighbour) = neighbour {
            neighbour.load(node, lab.families())?;
        }
        local_routes(&lab, "add")?;
        listener.gets_all(&format!("with a local route and {neighbour:?}"), &lab, &scenario, clients)?;
        local_routes(&lab, "del")?;
        scenario.expect_everybody(&format!("after the local route, with {neighbour:?}"))?;
        if let Some(neighbour) = neighbour {
            neighbour.remove(node, lab.families())?;
        }
    }
    let now = commits(&daemon)?;
    ensure!(now == before, "{} commits were made\n{}", now - before, daemon.log());
    Ok(())
}

#[test]
fn an_address_of_an_interface_does_not_hide_the_apiservers() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    for device in ["lo", "ipvs0"] {
        if device == "ipvs0" {
            lab.node()
                .ip("link add ipvs0 type veth peer name ipvs1\nlink set ipvs0 up\nlink set ipvs1 up\n")?;
        }
        let addresses = |verb: &str| -> Result<()> {
            for family in lab.families() {
                let vip = addresses::vip(*family);
                let length = if vip.is_ipv4() { 32 } else { 128 };
                lab.node().ip(&format!("addr {verb} {vip}/{length} dev {device}\n"))?;
            }
            Ok(())
        };
        addresses("add")?;
        daemon.wait_for_status("no guard", LIMIT, |status| guarded(status, false))?;
        scenario.expect_everybody(&format!("with the virtual IP on {device}"))?;
        addresses("del")?;
        daemon.wait_for_status("the guard", LIMIT, |status| guarded(status, true))?;
        scenario.expect_everybody(&format!("with the virtual IP on {device} no longer"))?;
    }
    Ok(())
}
