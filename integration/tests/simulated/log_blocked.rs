//! A log that nobody reads: a service manager or container runtime that hangs, or a pipe into a program that was stopped.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use apivip::model::types::Family;
use integration::control_plane::Variant;
use integration::daemon::{Daemon, backends_of};
use integration::lab::{Lab, LabOptions, addresses};
use integration::scenario::Scenario;
use serde_json::Value;

/// `O_NONBLOCK`.
const NONBLOCK: i32 = 0o4000;
const LIMIT: Duration = Duration::from_secs(60);
/// Longest until rules leave a killed apiserver out: much less where the machine is not busy.
const FAILED_OVER: Duration = Duration::from_secs(10);

/// Waits without a look at the log, which would not come back.
fn wait(daemon: &Daemon, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if daemon.status().is_ok_and(|status| wanted(&status)) {
            return Ok(begin.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("no sign of {what} within {limit:?}: {:#}", daemon.status()?)
}

/// What can be read without waiting.
fn drain(pipe: &mut File) -> Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("read the log"),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_log_that_nobody_reads_keeps_no_failover_waiting() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    // Its stderr is a pipe that is full.
    let path = lab.dir().join("apivip.stderr");
    lab.node().run("mkfifo", &[&path.display().to_string()])?;
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(&path)?;
    while pipe.write(b"x").is_ok() {}
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    let vip = SocketAddr::new(addresses::vip(Family::V4), 443);
    let used = |count: usize| move |status: &Value| backends_of(status, vip).len() == count;
    wait(&daemon, "rules for all apiservers", LIMIT, used(3))?;
    scenario.plane.kill(3)?;
    let took = wait(&daemon, "rules without the dead apiserver", FAILED_OVER, used(2))?;
    println!("failed over after {took:?}, with a log that nobody reads");
    // Somebody reads again: what waited comes, in its order.
    let begin = Instant::now();
    let mut log = String::new();
    while !log.contains("API server does not answer") {
        ensure!(begin.elapsed() < LIMIT, "the log ends with {:?}", log.lines().last());
        log += &drain(&mut pipe)?;
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(log.contains("event=daemon_starting"), "{log}");
    daemon.kill()?;
    Ok(())
}
