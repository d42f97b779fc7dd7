//! `apivip-audit` and whoever might take the virtual IP on a node with a daemon.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::audit::{audit, audit_behind};
use integration::check::Checked;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Families, Lab, LabOptions};
use integration::scenario::Scenario;
use integration::socklb::SocketBalancer;
use serde_json::Value;

/// The daemon dials each second here; what happens is known after two.
const LIMIT: Duration = Duration::from_secs(60);
const VIP: &str = "10.96.0.1:443";
/// Of a node as it should be.
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/ip_nonlocal_bind", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
];

/// What passes there.
const REDIRECT: [&str; 7] = [
    "redirect-answer",
    "redirect-tables",
    "redirect-sockets",
    "redirect-listeners",
    "redirect-nonlocal-bind",
    "redirect-rp-filter",
    "redirect-route-localnet",
];

struct Stage<'lab> {
    lab: &'lab Lab,
    scenario: Scenario<'lab>,
    daemon: Daemon,
}

impl<'lab> Stage<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        lab.node().sysctls(&SETTINGS)?;
        let scenario = Scenario::start(lab, Variant::Simulated, &[1, 2, 3])?;
        let options = scenario.options.clone().arg("--selftest-interval=1s");
        let daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
        Ok(Self { lab, scenario, daemon })
    }

    /// Waits until the daemon saw that this component answers.
    fn answered_by(&mut self, component: &str) -> Result<()> {
        let by = |status: &Value| status["selftests"][0]["answered_by"] == component;
        self.daemon.wait_for_status(component, LIMIT, by).map(drop)
    }

    fn audit(&self) -> Result<Checked> {
        let kubeconfig = self.scenario.plane.kubeconfig()?.display().to_string();
        audit(self.lab, &["--kubeconfig", &kubeconfig])
    }
}

#[test]
fn a_node_as_it_should_be_passes_and_each_neighbour_is_noticed() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab)?;
    stage.answered_by("rules")?;
    let checked = stage.audit()?;
    for id in REDIRECT {
        checked.expect(id, "pass", &[])?;
    }
    // The virtual IP is looked at like every apiserver.
    for at in [VIP, "192.0.2.11:6443", "192.0.2.12:6443", "192.0.2.13:6443"] {
        checked.expect("apiserver-certificate-issuer", "pass", &[at])?;
        checked.expect("apiserver-certificate-names", "pass", &[at, "10.96.0.1"])?;
    }

    lab.node().nft_load(
        "table ip other { chain output { type nat hook output priority -150;
         ip daddr 10.96.0.1 tcp dport 443 dnat to 192.0.2.13:6443\n}\n}\n",
    )?;
    stage.answered_by("other_program_dnat")?;
    let checked = stage.audit()?;
    checked.expect("redirect-answer", "fail", &[VIP])?;
    checked.expect("redirect-tables", "fail", &["ip other output (-150)"])?;
    lab.node().nft_load("delete table ip other\n")?;

    for (key, value, id) in [
        ("net/ipv4/ip_nonlocal_bind", "1", "redirect-nonlocal-bind"),
        ("net/ipv4/conf/eth0/route_localnet", "1", "redirect-route-localnet"),
    ] {
        lab.node().sysctl(key, value)?;
        stage.audit()?.expect(id, "fail", &[])?;
        lab.node().sysctl(key, "0")?;
        stage.audit()?.expect(id, "pass", &[])?;
    }
    let devices = lab.node().run("sh", &["-c", "ls /proc/sys/net/ipv4/conf"])?;
    for device in devices.split_whitespace() {
        lab.node().sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
    }
    stage.audit()?.expect("redirect-rp-filter", "fail", &["off"])
}

#[test]
fn a_process_that_listens_on_the_virtual_ip_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    lab.node().ip("address add 10.96.0.1/32 dev lo\n")?;
    let listener = lab.node().within(|| TcpListener::bind(VIP).context("bind the virtual IP"))?;
    let checked = stage.audit()?;
    // Its process is not among those of the folder that stands for the host's.
    checked.expect("redirect-listeners", "fail", &["a process that is not visible on 10.96.0.1:443"])?;
    drop(listener);
    stage.audit()?.expect("redirect-listeners", "pass", &["no process listens"])
}

#[test]
fn a_program_that_translates_at_the_socket_is_noticed() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let balancer = SocketBalancer::build(&lab)?;
    let kubeconfig = stage.scenario.plane.kubeconfig()?.display().to_string();
    let behind = balancer.wrapper(VIP.parse()?, "192.0.2.12:6443".parse()?);
    let checked = audit_behind(&lab, &behind, &["--kubeconfig", &kubeconfig])?;
    checked.expect("redirect-sockets", "fail", &["192.0.2.12:6443"])?;
    stage.audit()?.expect("redirect-sockets", "pass", &[])
}

#[test]
fn a_node_of_ipv6_passes_too() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::V6, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab)?;
    stage.answered_by("rules")?;
    let checked = stage.audit()?;
    for id in REDIRECT {
        checked.expect(id, "pass", &[])?;
    }
    for at in ["[fd00:10:96::1]:443", "[2001:db8::11]:6443", "[2001:db8::12]:6443", "[2001:db8::13]:6443"] {
        checked.expect("apiserver-certificate-issuer", "pass", &[at])?;
        checked.expect("anonymous-objects", "pass", &[at])?;
    }
    checked.expect("apiserver-certificate-names", "pass", &["fd00:10:96::1"])
}

#[test]
fn without_a_daemon_nothing_is_guessed() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let checked = audit(&lab, &["--vip", VIP])?;
    checked.expect("redirect-answer", "unknown", &["no daemon answers"])?;
    checked.expect("apiserver-certificate-issuer", "unknown", &[VIP])?;
    checked.expect("trusted-cas", "unknown", &["no CA is known"])?;
    checked.expect("kubelet-verified", "unknown", &["the flags of kube-apiserver"])?;
    let findings = checked.findings().filter(|finding| finding["verdict"] == "unknown");
    for finding in findings {
        ensure!(finding["fix"].is_string() && finding["evidence"] != "", "{finding:#}");
    }
    Ok(())
}
