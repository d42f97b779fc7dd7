//! What an operator may choose for a failover: when draining flows end, which apiserver is preferred, and to look only.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions, every_backend};
use integration::failover::Failover;
use integration::failover::trial::{addresses, lab, leave, mix};
use integration::fault::Fault;
use integration::lab::{Families, Lab, LabOptions};
use serde_json::Value;

const ALL: [u8; 3] = [1, 2, 3];

/// `--drain-timeout`, in milliseconds.
const DRAINED: u64 = 2_000;

/// Longer than it takes to notice a cut cable and to end the flows.
const LOOKED: Duration = Duration::from_secs(4);

#[test]
fn a_drain_timeout_ends_the_flows_of_one_that_stays_unready() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let options = ["--drain-timeout", "2s", "--readyz-interval", "1s"];
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &options)?;
    let (outcome, _) = leave(&mut stage, Fault::Unready, &[2], &mix())?;
    let told = outcome.expect_notified(&addresses(&lab, &[2]))?;
    ensure!(told.first_ms >= DRAINED, "flows ended before the time to drain was over: {told:?}");
    ensure!(outcome.failures(0, u64::MAX).is_empty(), "new connections failed\n{outcome}");
    Ok(())
}

/// It gets all new connections while it is up, the others where it is not, and all of them again when it is back.
#[test]
fn local_first_prefers_the_nodes_own_apiserver_while_it_is_up() -> Result<()> {
    let options = LabOptions { families: Families::Dual, node_is_apiserver: true, ..LabOptions::default() };
    let lab = Lab::start(options)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1], &["--balance", "local-first"])?;
    stage.plane.publish_apiservers(&ALL)?;
    let listed =
        |frontend: &Value| frontend["backends"].as_array().is_some_and(|backends| backends.len() == 3);
    let probed = |status: &Value| status["frontends"].as_array().is_some_and(|all| all.iter().all(listed));
    stage.daemon.wait_for_status("three apiservers", Duration::from_secs(30), probed)?;
    stage.expect_backends("with its own apiserver up", &[1])?;
    let (_, inflicted) = leave(&mut stage, Fault::Killed, &[1], &mix())?;
    stage.wait_for_backends(&[2, 3])?;
    inflicted.heal(&mut stage.plane)?;
    stage.wait_for_backends(&[1])
}

/// The rules, routes and flows that an earlier daemon left stay as they are, whatever becomes of apiservers.
#[test]
fn a_rehearsal_probes_and_says_what_it_would_do_and_does_nothing() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    let mut crowd = stage.everybody(&mix())?;
    stage.daemon.stop()?;
    let options = DaemonOptions::kubeconfig(stage.plane.kubeconfig()?).arg("--dry-run");
    let mut rehearsal = Daemon::spawn(lab.node(), lab.dir(), &options)?;
    let limit = Duration::from_secs(30);
    rehearsal.process().wait_for_line("event=dry_run_rules", limit)?;
    thread::sleep(LOOKED / 2);
    let of_the_node = || -> Result<String> {
        let node = lab.node();
        let rules = node.run("nft", &["-s", "list", "ruleset"])?;
        Ok(rules
            + &node.run("ip", &["rule"])?
            + &node.run("ip", &["-6", "rule"])?
            + &node.run("ip", &["route", "show", "table", "all"])?)
    };
    let before = of_the_node()?;
    let inflicted = stage.inflict(&mut crowd, Fault::Unplugged, &[2])?;
    rehearsal.process().wait_for_line("event=dry_run_connections", limit)?;
    thread::sleep(LOOKED);
    ensure!(of_the_node()? == before, "a rehearsal changed\n{before}\nto\n{}", of_the_node()?);
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    outcome.expect_uncut(&[])
}

/// Whoever answers in HTTP is alive, whatever it says: 429 is what a real one says under load where priority and fairness is off.
#[test]
fn no_status_of_readyz_ends_a_connection() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &["--readyz-interval", "1s"])?;
    let crowd = stage.everybody(&mix())?;
    for status in [429, 503, 404] {
        stage.plane.fleet()?.on(2, |control| async move { control.readyz(status).await })?;
        stage.wait_for_backends(&[1, 3])?;
        thread::sleep(Duration::from_secs(7));
        let said = stage.daemon.status()?;
        let states: Vec<_> = every_backend(&said).map(|backend| backend["state"].clone()).collect();
        ensure!(states.iter().filter(|state| **state == "draining").count() == 2, "{status}: {states:?}");
        stage.plane.fleet()?.on(2, |control| async move { control.readyz(200).await })?;
        stage.wait_for_backends(&ALL)?;
    }
    let outcome = crowd.finish()?;
    println!("{outcome}");
    outcome.expect_uncut(&[])?;
    outcome.expect_nothing_refused()
}
