//! `--balance nearest`, where the ways to apiservers differ in length and change while the daemon runs.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use apivip::model::types::Family;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::daemon::every_backend;
use integration::failover::Failover;
use integration::fault::Fault;
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::sim::access_log::What;
use serde_json::Value;

const ALL: [u8; 3] = [1, 2, 3];

/// One way, as everywhere here; a round trip is twice as long. The daemon lets apiservers share up to twice the shortest round
/// trip, and leaves those that share alone up to three times of it. What a busy machine adds to all of them, some 5 ms, must
/// not make them seem alike.
const NEAR: Duration = Duration::from_millis(15);
const LITTLE_FARTHER: Duration = Duration::from_millis(40);
const FAR: Duration = Duration::from_millis(70);

/// Connections of each family that are counted at the servers: by chance none of two that share is left out.
const COUNTED: usize = 30;

/// Until a round trip has come so near to its new value that the choice follows: 5 s are usual.
const FOLLOWED: Duration = Duration::from_secs(60);

/// Until a server's log shows what it accepted.
const LOGGED: Duration = Duration::from_secs(30);

/// Tries until no hiccup of the machine made a way longer than it is.
const TRIES: usize = 5;

/// New connections from the pod to each virtual IP come to be accepted by exactly these apiservers.
fn expect_served_by(stage: &mut Failover<'_>, numbers: &[u8]) -> Result<()> {
    for _ in 0..TRIES {
        stage.wait_for_backends(numbers)?;
        if is_served_by(stage, numbers)? {
            return Ok(());
        }
    }
    bail!("in {TRIES} tries connections never went to {numbers:?} alone\n{}", stage.daemon.log())
}

fn is_served_by(stage: &mut Failover<'_>, numbers: &[u8]) -> Result<bool> {
    let lab = stage.lab;
    let before = accepted(lab, stage)?;
    for family in lab.families() {
        let vip = SocketAddr::new(addresses::vip(*family), SERVICE_PORT);
        for _ in 0..COUNTED {
            let connect = || std::net::TcpStream::connect_timeout(&vip, FOLLOWED).context("connect");
            lab.pod(1).within(connect)?;
        }
    }
    let wanted = COUNTED * lab.families().len();
    let deadline = Instant::now() + LOGGED;
    let counts = loop {
        let now = accepted(lab, stage)?;
        let counts: Vec<usize> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
        if counts.iter().sum::<usize>() >= wanted || Instant::now() >= deadline {
            break counts;
        }
        thread::sleep(Duration::from_millis(50));
    };
    println!("{counts:?} went to apiservers {ALL:?}, {numbers:?} expected");
    let right = ALL.iter().zip(&counts).all(|(i, count)| (*count > 0) == numbers.contains(i));
    Ok(right && counts.iter().sum::<usize>() == wanted)
}

/// How many connections of the pod each apiserver has accepted.
fn accepted(lab: &Lab, stage: &mut Failover<'_>) -> Result<Vec<usize>> {
    let pods: Vec<IpAddr> = lab.families().iter().map(|family| addresses::pod(1, *family)).collect();
    let count = |i: &u8| -> Result<usize> {
        let log = stage.plane.fleet()?.access_log(*i)?;
        Ok(log.iter().filter(|e| e.what == What::Connection && pods.contains(&e.peer.ip())).count())
    };
    ALL.iter().map(count).collect()
}

/// The round trip to an apiserver in milliseconds, as the status shows it.
fn round_trip(status: &Value, lab: &Lab, i: u8, family: Family) -> Option<f64> {
    let ip = lab.apiserver_address(i, family);
    let backend = every_backend(status).find(|b| {
        let address = b["address"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
        address.is_some_and(|address| address.ip() == ip)
    })?;
    Some(backend["round_trip_us"].as_f64()? / 1000.0)
}

/// Apiserver 2 shares with the first, and comes to be a little farther away: not so far that it leaves, and too far to come
/// anew.
fn expect_a_small_change_to_move_nothing(stage: &mut Failover<'_>) -> Result<()> {
    let lab = stage.lab;
    'tries: for _ in 0..TRIES {
        lab.set_delay(2, NEAR)?;
        stage.wait_for_backends(&[1, 2])?;
        lab.set_delay(2, LITTLE_FARTHER)?;
        let deadline = Instant::now() + FOLLOWED;
        loop {
            let status = stage.daemon.status()?;
            let ratio = |family: &Family| -> Option<f64> {
                Some(round_trip(&status, lab, 2, *family)? / round_trip(&status, lab, 1, *family)?)
            };
            let ratios: Vec<f64> = lab.families().iter().filter_map(ratio).collect();
            // It may have been three times as far between two looks.
            if ratios.iter().any(|ratio| *ratio > 2.8) {
                println!("a hiccup: {ratios:?}");
                continue 'tries;
            }
            stage.expect_backends(&format!("{ratios:?} times as far"), &[1, 2])?;
            if ratios.len() == lab.families().len() && ratios.iter().all(|ratio| *ratio > 2.05) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the status shows {ratios:?}\n{status:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }
    bail!("in {TRIES} tries the machine was never quiet")
}

#[test]
fn nearest_leads_to_those_with_the_shortest_way() -> Result<()> {
    let options = LabOptions { families: Families::Dual, long_cables: true, ..LabOptions::default() };
    let lab = Lab::start(options)?;
    let arguments = ["--balance=nearest", "--ping-interval=200ms", "--selftest-interval=off"];
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &arguments)?;
    for (i, delay) in [(1, NEAR), (2, FAR), (3, FAR)] {
        lab.set_delay(i, delay)?;
    }
    expect_served_by(&mut stage, &[1])?;

    // A round trip of the status is smoothed, and never longer than the longest, nor shorter than the shortest there was.
    let as_long = |status: &Value, i: u8, delay: Duration| {
        let of = |family: &Family| round_trip(status, &lab, i, *family);
        lab.families().iter().all(|family| of(family) >= Some(2.0 * delay.as_secs_f64() * 1000.0 * 0.75))
    };
    stage.daemon.wait_for_status("the round trips", FOLLOWED, |status| {
        as_long(status, 1, NEAR) && as_long(status, 2, FAR) && as_long(status, 3, FAR)
    })?;

    expect_a_small_change_to_move_nothing(&mut stage)?;
    lab.set_delay(2, NEAR)?;
    expect_served_by(&mut stage, &[1, 2])?;

    lab.set_delay(2, FAR)?;
    stage.wait_for_backends(&[1])?;
    let inflicted = Fault::Killed.inflict(&mut stage.plane, &[1])?;
    expect_served_by(&mut stage, &[2, 3])?;
    stage.heal(inflicted)?;
    stage.wait_for_backends(&[1])?;

    lab.set_delay(3, NEAR)?;
    lab.set_delay(1, FAR)?;
    expect_served_by(&mut stage, &[3])
}
