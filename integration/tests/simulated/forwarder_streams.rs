//! What the forwarder carries arrives whole, however slow, silent or rude the peers are.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use integration::forwarder::{Stage, stream_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::process;
use integration::sources;
use integration::streams::{self, Case, Idle};

const GIGABYTE: u64 = 1 << 30;
const ZERO_WINDOW: Duration = Duration::from_secs(60);
const IDLE: usize = 10_000;
/// What a daemon may have open beside two descriptors for each of them.
const REST: usize = 200;
/// Until the forwarder has dialled for all, and a second more, from when on the kernel asks after its peers.
const LOOKED_AFTER: Duration = Duration::from_secs(60);
/// Clients in each place that come while there is no descriptor for them.
const CROWD: usize = 50;
const PAUSES: &str = "apivip_forwarder_accept_pauses_total";
/// Longest until the clients of a killed server have been told.
const TOLD: Duration = Duration::from_secs(10);

fn dual() -> Result<Lab> {
    Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })
}

/// In both families, from the Pod and the node, all at the same time; `in_turn` cases of each of them one after the other.
fn carried(cases: &[Case], in_turn: usize) -> Result<()> {
    let lab = dual()?;
    let stage = Stage::start(&lab, "forwarder")?;
    let _daemon = stage.daemon("forwarder")?;
    let (servers, targets) = (&stage.servers, stream_vips(&lab));
    let places = targets.iter().flat_map(|target| [(*target, lab.pod(1)), (*target, lab.node())]);
    thread::scope(|scope| {
        let start = |((target, from), cases): ((SocketAddr, _), &'_ [Case])| {
            let cases = cases.to_vec();
            scope.spawn(move || cases.iter().try_for_each(|case| servers.run(from, target, case)))
        };
        let work = places.flat_map(|place| cases.chunks(in_turn).map(move |some| (place, some)));
        let running: Vec<_> = work.map(start).collect();
        let ended =
            running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a client's thread panicked"))?);
        ended.collect()
    })
}

#[test]
fn a_gigabyte_each_way() -> Result<()> {
    carried(&Case::transfers(GIGABYTE), 3)
}

#[test]
fn halves_that_close_and_resets() -> Result<()> {
    carried(&Case::endings(), 4)
}

#[test]
fn slow_readers_and_writers() -> Result<()> {
    carried(&Case::slow(), 4)
}

#[test]
fn a_window_that_stays_closed_for_a_minute() -> Result<()> {
    carried(&Case::zero_window(ZERO_WINDOW), 1)
}

/// Both sides of each connection would notice that their peer is gone.
fn wait_until_looked_after(lab: &Lab, wanted: usize) -> Result<()> {
    let both = format!("sport = :{} or dport = :{}", streams::SERVICE_PORT, streams::PORT);
    let deadline = Instant::now() + LOOKED_AFTER;
    loop {
        let sockets = lab.node().run("ss", &["-Htno", "state", "established", &both])?;
        let (watched, others): (Vec<_>, Vec<_>) =
            sockets.lines().partition(|line| line.contains("timer:(keepalive,"));
        let (watched, other) = (watched.len(), others.first());
        if watched >= wanted {
            return Ok(());
        }
        let late = Instant::now() >= deadline;
        ensure!(!late, "the kernel looks after {watched} of {wanted} sockets, not after {other:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Half of them in the Pod, half on the node.
fn held(count: usize, silent: bool) -> Result<()> {
    let lab = dual()?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let most = ["--forwarder-max-connections", "10000", "--forwarder-max-per-client", "10000"];
    stage.options().arguments.extend(most.map(str::to_owned));
    let mut daemon = stage.daemon("forwarder")?;
    let sources = sources::add(&lab, 4)?;
    let targets = stream_vips(&lab);
    let pod = Idle::start(lab.pod(1), &lab, &targets, &sources, count / 2, silent)?;
    let node = Idle::start(lab.node(), &lab, &targets, &[], count - count / 2, silent)?;
    let known = "apivip_forwarder_connections{listener=\"vip\"}";
    daemon.wait_for_metric(known, LOOKED_AFTER, |carried| carried >= count as u64)?;
    wait_until_looked_after(&lab, 2 * count)?;
    stage.expect_forwarded("beside idle connections")?;
    pod.finish_clean().context("in the Pod")?;
    node.finish_clean().context("on the node")?;
    ensure!(daemon.process().exited()?.is_none(), "the daemon has ended");
    Ok(())
}

#[test]
fn ten_thousand_idle_connections() -> Result<()> {
    // Containers are often given 20,000 descriptors and no right to more.
    let fit = (process::most_descriptors() - REST) / 2;
    println!("{fit} connections fit the limit of descriptors");
    held(IDLE.min(fit), false)
}

#[test]
fn clients_that_say_nothing() -> Result<()> {
    held(500, true)
}

#[test]
fn more_clients_than_descriptors() -> Result<()> {
    let lab = dual()?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    stage.options().wrapper = vec!["prlimit".to_owned(), "--nofile=72:72".to_owned()];
    let mut daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("with 72 descriptors")?;
    let mut before = 0;
    for from in [lab.pod(1), lab.node()] {
        // The kernel accepts them all; the daemon only some.
        let crowd = Idle::start(from, &lab, &stream_vips(&lab), &[], 200, true)?;
        thread::sleep(Duration::from_secs(2));
        ensure!(daemon.process().exited()?.is_none(), "the daemon has ended\n{}", daemon.log());
        daemon.status()?;
        let pauses = daemon.metric(PAUSES)?;
        ensure!(pauses > before, "nothing says that accepting pauses\n{}", daemon.metrics()?);
        before = pauses;
        drop(crowd);
        stage.expect_forwarded("after the crowd")?;
    }
    Ok(())
}

/// As after other parts of the daemon took what the limit at its start had left, or an operator lowered the limit.
#[test]
fn a_kernel_without_descriptors_for_a_while() -> Result<()> {
    let lab = dual()?;
    let stage = Stage::start(&lab, "forwarder")?;
    let mut daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("at first")?;
    let before = daemon.metric(PAUSES)?;
    let pid = daemon.pid();
    let limited = |limit: usize| {
        let arguments = ["--pid", &pid.to_string(), &format!("--nofile={limit}:")];
        lab.node().run("prlimit", &arguments).with_context(|| format!("limit {pid} to {limit} descriptors"))
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    limited(open + 3)?;
    let targets = stream_vips(&lab);
    let crowds = [lab.pod(1), lab.node()].map(|from| Idle::start(from, &lab, &targets, &[], CROWD, true));
    thread::sleep(Duration::from_secs(3));
    ensure!(daemon.process().exited()?.is_none(), "the daemon has ended\n{}", daemon.log());
    limited(process::most_descriptors())?;
    stage.expect_forwarded("with descriptors again")?;
    let pauses = daemon.metric(PAUSES)?;
    ensure!(pauses > before, "nothing says that accepting paused\n{}", daemon.metrics()?);
    for crowd in crowds {
        let examined = crowd?.finish()?;
        println!("{examined:?}");
        // Those waited in the backlog; only whoever was accepted with the last descriptor may have been turned away.
        ensure!(examined.working + 3 >= CROWD, "{examined:?}\n{}", daemon.log());
    }
    stage.expect_forwarded("after the crowd")
}

#[test]
fn a_server_killed_with_a_thousand_connections() -> Result<()> {
    let lab = dual()?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let mut daemon = stage.daemon("forwarder")?;
    let targets: Vec<SocketAddr> = stream_vips(&lab);
    let mut publish = |stage: &mut Stage<'_>, numbers: &[u8]| -> Result<()> {
        stage.servers.publish(&stage.scenario.plane, numbers)?;
        for (target, family) in targets.iter().zip(lab.families()) {
            let of = |i: &u8| SocketAddr::new(lab.apiserver_address(*i, *family), streams::PORT);
            daemon.wait_for_backends(*target, &numbers.iter().map(of).collect::<Vec<_>>())?;
        }
        Ok(())
    };
    publish(&mut stage, &[2])?;
    let through_it = Idle::start(lab.pod(1), &lab, &targets, &[], 1_000, false)?;
    publish(&mut stage, &[1, 2, 3])?;
    stage.servers.kill(2)?;
    thread::sleep(TOLD);
    let examined = through_it.finish()?;
    ensure!(examined.told == 1_000, "some clients were not told: {examined:?}");
    // Who answers still is found, whichever was to be next.
    Idle::start(lab.pod(1), &lab, &targets, &[], 100, false)?.finish_clean()
}
