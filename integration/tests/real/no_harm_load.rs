//! Real apiservers that are slow: one with little of a processor and much to do, and all of them while etcd stands still. Slow is not
//! dead, and nobody is cut.

use std::fmt::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::clients::Mix;
use integration::command;
use integration::failover::Failover;
use integration::failover::way::{ALL, Way, expect_uncut, patient};
use integration::lab::Families;
use integration::process::Spawned;
use integration::real::{ADMIN_TOKEN, cached};
use integration::throttle::Throttle;

/// How many Services are listed, and by how many clients.
const SERVICES: usize = 500;
const CLIENTS: usize = 30;

/// Percent of a processor that the apiserver has.
const SHARE: u32 = 10;

/// An apiserver whose lists take less is not slow.
const SLOW: f64 = 1.0;

/// Longer than it takes to end those of one that is silent.
const LASTING: Duration = Duration::from_secs(20);

/// How long etcd stands still: apiservers call themselves unready after some seconds.
const STANDSTILL: Duration = Duration::from_secs(20);

/// Makes Services to list, without virtual IPs.
fn make_services(stage: &mut Failover<'_>) -> Result<()> {
    let mut text = String::new();
    for i in 0..SERVICES {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{clusterIP: None, ports: [{{port: 80}}]}}\n"
        )?;
    }
    let server = stage.plane.apiservers(1)[0];
    let mut kubectl = stage.lab.fabric().command(cached("kubectl")?);
    kubectl.arg(format!("--server=https://{server}")).arg(format!("--token={ADMIN_TOKEN}"));
    kubectl.arg("--certificate-authority").arg(stage.plane.authority());
    kubectl.args(["create", "--validate=false", "-f", "-"]);
    command::run(kubectl, &text).map(drop)
}

/// Clients of apiserver 2, past the node, that list without pause. They write how long each list took, in seconds.
fn listing(stage: &mut Failover<'_>) -> Result<Spawned> {
    let mut curl = stage.lab.fabric().command("curl");
    curl.args([
        "-sS",
        "--no-progress-meter",
        "--noproxy",
        "*",
        "--http1.1",
        "-Z",
        "--parallel-immediate",
        "--max-time",
        "90",
    ]);
    curl.args([
        "--parallel-max",
        &CLIENTS.to_string(),
        "-o",
        "/dev/null",
        "-w",
        "%{stderr}%{http_code} %{time_total}\n",
    ]);
    curl.arg("--cacert").arg(stage.plane.authority());
    curl.args(["-H", &format!("Authorization: Bearer {ADMIN_TOKEN}")]);
    let server = stage.plane.apiservers(2)[0];
    curl.arg(format!("https://{server}/api/v1/namespaces/default/services?page=[1-100000]"));
    Spawned::start("listing", curl, stage.lab.dir())
}

fn overloaded(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    make_services(&mut stage)?;
    let crowd = way.crowd(&mut stage, &patient(), &ALL, 2)?;
    let throttle = Throttle::new(stage.plane.real()?.apiserver_pid(2)?, SHARE)?;
    let mut lists = listing(&mut stage)?;
    thread::sleep(LASTING);
    lists.kill()?;
    drop(throttle);
    // Standard output would be lost with the process.
    let output = lists.stderr();
    let times: Vec<f64> = output.lines().filter_map(|line| line.strip_prefix("200 ")?.parse().ok()).collect();
    let slowest = times.iter().copied().fold(0.0, f64::max);
    println!("{way:?}: {} lists were answered, the slowest in {slowest:.1} s", times.len());
    stage.wait_for_backends(&ALL)?;
    let outcome = crowd.finish()?;
    expect_uncut(&outcome, &stage).with_context(|| format!("{way:?}"))?;
    ensure!(slowest > SLOW, "it was not slow: {times:?}");
    Ok(())
}

fn etcd_stands_still(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    // What is written or read through etcd waits, and is refused at last: such requests say nothing of connections.
    let crowd = way.crowd(&mut stage, &Mix { upload: 0, download: 0, ..patient() }, &ALL, 2)?;
    stage.plane.real()?.pause_etcd()?;
    thread::sleep(STANDSTILL);
    let status = stage.daemon.status();
    stage.plane.real()?.resume_etcd()?;
    println!("{way:?}: {:#}", status?["problems"]);
    thread::sleep(Duration::from_secs(3));
    let verdict = stage.wait_for_backends(&ALL);
    stage.daemon.explain(verdict)?;
    let outcome = crowd.finish()?;
    expect_uncut(&outcome, &stage).with_context(|| format!("{way:?}"))
}

#[test]
fn one_with_a_tenth_of_a_processor_keeps_its_clients() -> Result<()> {
    overloaded(Way::Rules(Families::Dual))
}

#[test]
fn an_etcd_that_stands_still_cuts_nobody() -> Result<()> {
    etcd_stands_still(Way::Rules(Families::Dual))
}

mod release {
    use super::*;

    #[test]
    fn one_with_a_tenth_of_a_processor_keeps_its_clients_through_the_forwarder() -> Result<()> {
        overloaded(Way::Forwarder(Families::Dual))
    }

    #[test]
    fn an_etcd_that_stands_still_cuts_nobody_through_the_forwarder() -> Result<()> {
        etcd_stands_still(Way::Forwarder(Families::Dual))
    }
}
