//! What the forwarder carries arrives whole, however slow, silent or rude the peers are.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::forwarder::{Stage, stream_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::process;
use integration::sources;
use integration::streams::{Case, Idle};

const GIGABYTE: u64 = 1 << 30;
const ZERO_WINDOW: Duration = Duration::from_secs(60);
const IDLE: usize = 10_000;
/// What a daemon may have open beside two descriptors for each of them.
const REST: usize = 200;
/// Longest until the clients of a killed server have been told.
const TOLD: Duration = Duration::from_secs(10);

fn carried(families: Families, cases: &[Case]) -> Result<()> {
    let lab = Lab::start(LabOptions { families, ..LabOptions::default() })?;
    let stage = Stage::start(&lab, "forwarder")?;
    let _daemon = stage.daemon("forwarder")?;
    for target in stream_vips(&lab) {
        for case in cases {
            for from in [lab.pod(1), lab.node()] {
                stage.servers.run(from, target, case)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_gigabyte_each_way() -> Result<()> {
    carried(Families::V4, &Case::transfers(GIGABYTE))
}

#[test]
fn halves_that_close_and_resets() -> Result<()> {
    carried(Families::Dual, &Case::endings())
}

#[test]
fn slow_readers_and_writers() -> Result<()> {
    carried(Families::Dual, &Case::slow())
}

#[test]
fn a_window_that_stays_closed_for_a_minute() -> Result<()> {
    carried(Families::V6, &Case::zero_window(ZERO_WINDOW))
}

fn held(count: usize, silent: bool) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let most = ["--forwarder-max-connections", "10000", "--forwarder-max-per-client", "10000"];
    stage.options().arguments.extend(most.map(str::to_owned));
    let mut daemon = stage.daemon("forwarder")?;
    let sources = sources::add(&lab, 4)?;
    let idle = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &sources, count, silent)?;
    thread::sleep(Duration::from_secs(5));
    let carried = daemon.metric("apivip_forwarder_connections{listener=\"vip\"}")?;
    ensure!(carried >= count as u64, "{carried} of {count} connections are known");
    stage.expect_forwarded("beside idle connections")?;
    idle.finish_clean()?;
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
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    stage.options().wrapper = vec!["prlimit".to_owned(), "--nofile=64:64".to_owned()];
    let mut daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("with 64 descriptors")?;
    // The kernel accepts them all; the daemon only some.
    let crowd = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 200, true)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(daemon.process().exited()?.is_none(), "the daemon has ended\n{}", daemon.log());
    daemon.status()?;
    let pauses = daemon.metric("apivip_forwarder_accept_pauses_total")?;
    ensure!(pauses > 0, "nothing says that accepting pauses\n{}", daemon.metrics()?);
    drop(crowd);
    stage.expect_forwarded("after the crowd")
}

#[test]
fn a_server_killed_with_a_thousand_connections() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let _daemon = stage.daemon("forwarder")?;
    let targets: Vec<SocketAddr> = stream_vips(&lab);
    let idle = Idle::start(lab.pod(1), &lab, &targets, &[], 1_000, false)?;
    stage.servers.kill(2)?;
    thread::sleep(TOLD);
    let examined = idle.finish()?;
    let (told, working) = (examined.told, examined.working);
    ensure!(told + working == 1_000, "some clients were not told: {examined:?}");
    ensure!(told > 100 && working > 100, "the connections were not shared: {examined:?}");
    // Who answers still is found, whichever was to be next.
    Idle::start(lab.pod(1), &lab, &targets, &[], 100, false)?.finish_clean()
}
