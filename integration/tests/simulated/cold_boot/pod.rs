//! A daemon in a Pod on a node whose virtual IP nobody serves yet, with seeds whose names change; and the forwarder
//! with seeds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;
use integration::cold_boot::{ColdBoot, LIMIT, serves};
use integration::control_plane::Variant;
use integration::daemon::DaemonOptions;
use integration::lab::{Lab, LabOptions};

/// The options of a daemon in a Pod. It sees the service account that lies in FOLDER/account, FOLDER/hosts as /etc/hosts,
/// and no name server.
fn in_a_pod(boot: &ColdBoot<'_>, folder: &Path) -> Result<DaemonOptions> {
    let account = folder.join("account");
    fs::create_dir(&account)?;
    symlink(boot.plane.authority(), account.join("ca.crt"))?;
    symlink(boot.token(), account.join("token"))?;
    fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")?;
    let folder = folder.display();
    // In the mount namespace that `ip netns exec` has made for the daemon alone.
    let script = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount &&
        mount --bind {folder}/account /run/secrets/kubernetes.io/serviceaccount &&
        mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/resolv.conf /etc/resolv.conf && exec \"$@\""
    );
    let variables =
        [("KUBERNETES_SERVICE_HOST", boot.vip().ip().to_string()), ("KUBERNETES_SERVICE_PORT", "443".into())];
    Ok(DaemonOptions {
        kubeconfig: None,
        // The self-test dials the virtual IP, and here nothing may.
        arguments: [
            "--seed",
            "api.lab.test:6443",
            "--service-cidr",
            "10.96.0.0/12",
            "--selftest-interval=off",
        ]
        .map(str::to_owned)
        .to_vec(),
        environment: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        wrapper: ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec(),
    })
}

#[test]
fn a_pod_dials_what_a_seed_stands_for_and_the_virtual_ip_never() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    let hosts = |text: &str| fs::write(lab.dir().join("hosts"), format!("127.0.0.1 localhost\n{text}\n"));
    hosts("")?;
    let options = in_a_pod(&boot, lab.dir())?;
    boot.watch_vip()?;
    let mut daemon = boot.spawn(&options)?;
    daemon.process().wait_for_line("event=seed_resolution_failed", LIMIT)?;
    daemon.wait_for_status("nothing to dial", LIMIT, |status| {
        let error = status["api"]["last_error"].as_str().unwrap_or_default();
        error.contains("10.96.0.1:443 is the virtual IP, and no seed could be resolved yet")
    })?;

    let at = |i: u8| boot.plane.apiservers(i)[0];
    hosts("192.0.2.11 api.lab.test")?;
    daemon.wait_for_status("the name's address", LIMIT, |s| serves(s, boot.vip(), &[at(1)], "seed"))?;
    hosts("192.0.2.12 api.lab.test\n192.0.2.13 api.lab.test")?;
    let both = [at(2), at(3)];
    daemon.wait_for_status("the name's new addresses", LIMIT, |s| serves(s, boot.vip(), &both, "seed"))?;

    boot.may_read(true)?;
    let all = [at(1), at(2), at(3)];
    daemon.wait_for_status("the API's list", LIMIT, |s| serves(s, boot.vip(), &all, "published"))?;
    boot.expect_vip_undialled()?;
    boot.expect_served("in a Pod")
}

#[test]
fn the_forwarder_serves_seeds_as_rules_do() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    let arguments = ["--seed", "192.0.2.12:6443", "--vip", "10.96.0.1:443", "--mode", "forwarder"];
    let mut daemon = boot.spawn(&boot.options(&arguments)?)?;
    let seed = boot.plane.apiservers(2);
    daemon.wait_for_status("the forwarder", LIMIT, |status| {
        status["phase"] == "forwarding" && serves(status, boot.vip(), &seed, "seed")
    })?;
    boot.expect_served("by the forwarder")
}
