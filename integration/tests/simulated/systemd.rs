//! The unit of docs/install under a real systemd: it waits for its kubeconfig, holds the daemon to its limits, and the daemon
//! does all of its work within them; a hung one is replaced, a stop leaves the rules, and the journal has what it said.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::backends_of;
use integration::failover::trial::lab;
use integration::forwarder::stream_vips;
use integration::lab::Families;
use integration::scenario::Scenario;
use integration::streams::{self, Idle, Servers};
use integration::systemd::{Systemd, UNIT};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A minute without a sign of life would be a long test, and a second between starts as well. Nothing else differs.
const QUICK: &str = "[Service]\nWatchdogSec=5\nRestartSec=100ms\n";
/// More than systemd starts a unit in 10 s, unless it is told otherwise.
const STARTS: u32 = 8;
const KUBECONFIG: &str = "/etc/apivip/kubeconfig";
const CA: &str = "/etc/apivip/ca.crt";
const STATE: &str = "/var/lib/apivip/state";
/// CAP_NET_ADMIN, CAP_NET_BIND_SERVICE and CAP_NET_RAW.
const CAPABILITIES: &str = "0000000000003400";

fn works(status: &Value) -> bool {
    status["phase"] == "programmed" && status["generation"] != 0
}

fn restarts(systemd: &Systemd<'_>) -> Result<u32> {
    systemd.shows("NRestarts")?.parse().context("read the number of restarts")
}

#[test]
fn the_unit_does_all_its_work_under_systemd() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let servers = Servers::start(&lab)?;
    servers.publish(&scenario.plane, &[1, 2, 3])?;
    let unit = include_str!("../../../docs/install/apivip.service");
    let mut systemd = Systemd::start(&lab, unit, QUICK)?;

    // The kubeconfig comes later than the unit, as on a node that is just being set up.
    systemd.wait_until("starts without a kubeconfig", |systemd| {
        ensure!(systemd.shows("SubState")? != "failed", "it is started no more\n{}", systemd.journal_text());
        Ok((restarts(systemd)? > STARTS).then_some(()))
    })?;
    let kubeconfig = scenario.options.kubeconfig.as_ref().context("a kubeconfig")?;
    let authority = scenario.plane.authority();
    fs::copy(authority, systemd.path(CA)).context("copy the CA")?;
    let text = fs::read_to_string(kubeconfig).context("read the kubeconfig")?;
    let text = text.replace(&authority.display().to_string(), CA);
    fs::write(systemd.path(KUBECONFIG), text).context("write the kubeconfig")?;
    systemd.wait_for_status("rules", works)?;
    ensure!(systemd.shows("ActiveState")? == "active", "{}", systemd.journal_text());
    systemd.wait_until("a sentence for systemctl status", |systemd| {
        Ok(systemd.shows("StatusText")?.starts_with("healthy, programmed: ").then_some(()))
    })?;
    scenario.expect_everybody("under systemd")?;
    expect_limits(&systemd)?;
    a_dead_apiserver_is_left(&scenario, &mut systemd)?;
    a_hung_daemon_is_replaced(&scenario, &mut systemd)?;
    the_forwarder_is_the_fallback(&scenario, &mut systemd)?;
    expect_journal(&systemd)?;

    systemd.run(&format!("systemctl stop {UNIT}"))?;
    for (name, wanted) in [("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0")] {
        let found = systemd.shows(name)?;
        ensure!(found == wanted, "{name} is {found} after a stop\n{}", systemd.journal_text());
    }
    ensure!(systemd.daemon()?.is_none(), "a process is left");
    scenario.expect_everybody("after a stop")?;
    ensure!(systemd.path(STATE).is_file() && systemd.path("/run/apivip").is_dir(), "a stop removed folders");
    let said = systemd.run("apivip cleanup")?;
    let left = lab.node().nft_text("tables")?;
    ensure!(!left.contains("apivip"), "{left} is left of the rules; cleanup said {said}");
    ensure!(!systemd.path(STATE).exists(), "the state is left; cleanup said {said}");
    Ok(())
}

/// What the unit takes away is taken away from the very process that works.
fn expect_limits(systemd: &Systemd<'_>) -> Result<()> {
    let pid = systemd.daemon()?.context("no daemon")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the daemon's limits")?;
    let limits = [("CapBnd", CAPABILITIES), ("CapEff", CAPABILITIES), ("NoNewPrivs", "1"), ("Seccomp", "2")];
    for (name, wanted) in limits {
        ensure!(status.contains(&format!("{name}:\t{wanted}\n")), "{name} is not {wanted}:\n{status}");
    }
    let inside = |path: &str| format!("/proc/{pid}/root{path}");
    for path in ["/etc/machine-id", "/usr/bin/env", "/proc/sys/net/ipv4/ip_forward"] {
        let opened = File::options().write(true).open(inside(path));
        let refused = opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem);
        ensure!(refused, "{path} can be written: {opened:?}");
    }
    for folder in ["/var/lib/apivip", "/run/apivip"] {
        let probe = inside(&format!("{folder}/probe"));
        File::create(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .with_context(|| format!("write {folder}"))?;
    }
    let home = fs::read_dir(inside("/root")).context("list /root")?.count();
    ensure!(home == 0, "{home} files of /root are seen");
    Ok(())
}

/// Clients in a Pod and on the node itself are told: it forges packets, and destroys sockets.
fn a_dead_apiserver_is_left(scenario: &Scenario<'_>, systemd: &mut Systemd<'_>) -> Result<()> {
    let lab = scenario.plane.lab();
    let clients = [lab.pod(1), lab.node()];
    let clients = clients.map(|from| Idle::start(from, lab, &stream_vips(lab), &[], 48, false));
    lab.unplug(1)?;
    for ip in lab.apiserver_addresses(1) {
        let dead = SocketAddr::new(ip, streams::PORT).to_string();
        systemd.wait_until(&format!("the end of the flows to {dead}"), |systemd| {
            let log = systemd.journal_text();
            let first =
                |line: &&str| line.contains("event=connections_reset") && line.contains("repeated=false");
            let mut told = log.lines().filter(first);
            Ok(told.any(|line| line.contains(&dead) && !line.contains("flows=0 ")).then_some(()))
        })?;
    }
    for clients in clients {
        let examined = clients?.finish()?;
        let all = examined.told + examined.working == examined.opened;
        ensure!(examined.told > 0 && all, "{examined:?}\n{}", systemd.journal_text());
    }
    let dead: Vec<IpAddr> = lab.apiserver_addresses(1);
    systemd.wait_for_status("rules without the dead one", |status| {
        lab.vips().into_iter().all(|vip| {
            let used = backends_of(status, SocketAddr::new(vip, 443));
            used.len() == 2 && used.iter().all(|backend| !dead.contains(&backend.ip()))
        })
    })?;
    scenario.expect_everybody("after the death of an apiserver")
}

fn a_hung_daemon_is_replaced(scenario: &Scenario<'_>, systemd: &mut Systemd<'_>) -> Result<()> {
    let before = restarts(systemd)?;
    let hung = systemd.daemon()?.context("no daemon")?;
    let pid = i32::try_from(hung).ok().and_then(Pid::from_raw).context("the daemon's id")?;
    let begin = Instant::now();
    kill_process(pid, Signal::STOP).context("stop the daemon")?;
    scenario.expect_everybody("while the daemon hangs")?;
    systemd.wait_until("another daemon", |systemd| {
        Ok(systemd.daemon()?.is_some_and(|now| now != hung).then_some(()))
    })?;
    let took = begin.elapsed();
    systemd.wait_for_status("rules again", works)?;
    ensure!(restarts(systemd)? == before + 1, "{}", systemd.journal_text());
    let log = systemd.journal_text();
    ensure!(log.contains("Watchdog timeout"), "it was not the watchdog that ended it\n{log}");
    // Five seconds, and no wait for a process that cannot end by itself.
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    println!("a hung daemon was replaced after {took:?}");
    scenario.expect_everybody("after the watchdog")
}

/// It opens /dev/net/tun, the only device that it is allowed, and listens on ports below 1024.
fn the_forwarder_is_the_fallback(scenario: &Scenario<'_>, systemd: &mut Systemd<'_>) -> Result<()> {
    let drop_in = systemd.path(&format!("/run/units/{UNIT}.d/mode.conf"));
    fs::write(&drop_in, "[Service]\nEnvironment=APIVIP_MODE=forwarder\n").context("write a drop-in")?;
    let restart = |systemd: &Systemd<'_>| -> Result<()> {
        systemd.run("systemctl daemon-reload")?;
        systemd.run(&format!("systemctl restart {UNIT}")).map(drop)
    };
    restart(systemd)?;
    systemd.wait_for_status("the forwarder", |status| status["phase"] == "forwarding")?;
    for from in [scenario.plane.lab().pod(1), scenario.plane.lab().node()] {
        for vip in scenario.plane.lab().vips() {
            let answer = scenario.plane.fetch(from, vip)?;
            ensure!(answer == "ok", "{} got {answer:?} of {vip}", from.name());
        }
    }
    fs::remove_file(&drop_in).context("remove a drop-in")?;
    restart(systemd)?;
    systemd.wait_for_status("rules again", works)?;
    scenario.expect_everybody("after the forwarder")
}

/// Lines are there with their priorities, which are not in the text.
fn expect_journal(systemd: &Systemd<'_>) -> Result<()> {
    let journal = systemd.journal()?;
    let said = |words: &str| {
        let mut lines = journal.iter().filter(|line| line["_COMM"] == "apivip");
        lines.find(|line| line["MESSAGE"].as_str().is_some_and(|message| message.contains(words)))
    };
    for (words, priority) in [
        ("no such file; correct the path", "3"),
        ("API server does not answer", "4"),
        ("event=connections_reset", "6"),
    ] {
        let line = said(words).with_context(|| format!("no {words:?} in\n{}", systemd.journal_text()))?;
        ensure!(line["PRIORITY"] == priority, "{line:#}");
        ensure!(!line["MESSAGE"].as_str().unwrap_or_default().starts_with('<'), "{line:#}");
    }
    Ok(())
}
