//! What `apivip status` shows of the kernel while no daemon runs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command::{self, finish};
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions};
use integration::scenario::Scenario;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn without_a_daemon_people_read_addresses() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("before it stops")?;
    let dead = scenario.plane.apiservers(3);
    // The kernel knows it once its clients' connections are ended.
    lab.unplug(3)?;
    daemon.wait_for_status("the death of an apiserver", LIMIT, |status| {
        let frontends = status["frontends"].as_array().into_iter().flatten();
        let backends = frontends.filter_map(|frontend| frontend["backends"].as_array()).flatten();
        let down = backends.filter(|backend| backend["state"] == "failed");
        let down: Vec<&str> = down.filter_map(|backend| backend["address"].as_str()).collect();
        dead.iter().all(|address| down.contains(&address.to_string().as_str()))
    })?;
    daemon.stop()?;
    let mut status = lab.node().command(command::program("apivip")?);
    status.args(["status", "--run-dir"]).arg(lab.dir().join("run"));
    let shown = finish(status, "", command::COMMAND_LIMIT)?;
    ensure!(shown.status.code() == Some(1), "{shown:?}");
    println!("{}", shown.stdout);
    for vip in lab.vips() {
        let vip = SocketAddr::new(vip, 443);
        ensure!(
            shown.stdout.lines().next().is_some_and(|line| line.contains(&vip.to_string())),
            "{vip}: {shown:?}"
        );
    }
    for i in 1..=3 {
        for backend in scenario.plane.apiservers(i) {
            let row = shown.stdout.lines().find(|line| line.trim().starts_with(&backend.to_string()));
            let row = row.with_context(|| format!("{backend} is not in {shown:?}"))?;
            let count = row.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok());
            ensure!(count.is_some(), "{row}");
            ensure!(row.contains("failed, gets no new connections") == (i == 3), "{row}");
        }
    }
    ensure!(!["backend-", "reset-", "vip-", "_"].iter().any(|name| shown.stdout.contains(name)), "{shown:?}");
    Ok(())
}
