//! Slow and hostile clients of the admin listener: others are still answered, and what they cost is given back.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::admin::{self, ADDRESS};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Lab, LabOptions};
use integration::netns::Namespace;
use integration::process::raise_descriptors;
use integration::scenario::Scenario;

const IDLE: usize = 1000;
const SLOW: usize = 20;
const ROUNDS: usize = 10;
/// A scrape takes milliseconds.
const SCRAPE: Duration = Duration::from_secs(10);
/// A connection lasts 15 s at most.
const FORGOTTEN: Duration = Duration::from_secs(60);

fn descriptors(daemon: &Daemon) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
}

/// Resident memory in KiB.
fn resident(daemon: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|word| word.parse().ok()).context("read VmRSS")
}

fn connect(count: usize, first: &[u8]) -> Result<Vec<TcpStream>> {
    let open = |_| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(ADDRESS).context("connect")?;
        // It may have been shed already.
        let _ = stream.write_all(first);
        Ok(stream)
    };
    (0..count).map(open).collect()
}

fn scrape(node: &Namespace, what: &str) -> Result<()> {
    let begin = Instant::now();
    let answer = admin::get(node, "/metrics").with_context(|| what.to_owned())?;
    let took = begin.elapsed();
    ensure!(answer.status == 200 && answer.body.ends_with("# EOF\n"), "{what}: {answer:#?}");
    ensure!(took < SCRAPE, "{what}: a scrape took {took:?}");
    println!("{what}: scraped in {took:?}");
    Ok(())
}

/// A daemon that has made its connections to the apiservers, and its first self-test.
fn settled(scenario: &Scenario<'_>) -> Result<Daemon> {
    let daemon = scenario.daemon()?;
    admin::wait_until_ready(scenario.plane.lab().node(), FORGOTTEN)?;
    thread::sleep(Duration::from_secs(1));
    Ok(daemon)
}

#[test]
fn a_thousand_idle_and_slow_clients_cost_nothing() -> Result<()> {
    raise_descriptors()?;
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = settled(&scenario)?;
    let node = lab.node();
    // What one round makes once is no cost of the next.
    drop(node.within(|| connect(50, b"GET /metrics HTTP/1.1\r\n"))?);
    scrape(node, "before")?;
    let (files, memory) = (descriptors(&daemon)?, resident(&daemon)?);
    let mut clients = Vec::new();
    let mut most = 0;
    for round in 0..ROUNDS {
        // The last of them wait when the scrape comes, and have not been shed by others of their kind.
        clients.push(node.within(|| {
            // None of these reads its answer.
            let deaf = connect(SLOW, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let slow = connect(SLOW, b"GET /metrics HT")?;
            Ok([deaf, slow, connect(IDLE / ROUNDS, b"")?])
        })?);
        for stream in clients.iter_mut().flat_map(|[_, slow, _]| slow) {
            let _ = stream.write_all(b"x");
        }
        most = most.max(descriptors(&daemon)?);
        scrape(node, &format!("round {round}"))?;
    }
    ensure!(most > files + 5, "{most} descriptors, {files} before: nobody waits");
    ensure!(most < files + 40, "{most} descriptors, {files} before");
    scenario.expect_everybody("beside idle and slow clients")?;
    drop(clients);
    let end = Instant::now() + FORGOTTEN;
    loop {
        let (now, grown) = (descriptors(&daemon)?, resident(&daemon)?.saturating_sub(memory));
        if now <= files + 2 && grown < 4096 {
            println!("{files} descriptors before, at most {most}, {now} after; memory grew by {grown} KiB");
            return Ok(());
        }
        ensure!(Instant::now() < end, "{files} descriptors became {now}; memory grew by {grown} KiB");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn large_headers_are_refused_and_half_requests_end() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = settled(&scenario)?;
    let node = lab.node();
    scrape(node, "before")?;
    let memory = resident(&daemon)?;
    let large = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(1 << 20));
    for stream in &mut node.within(|| connect(20, b""))? {
        // The daemon closes long before it has all of it.
        let _ = stream.write_all(large.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut half = node.within(|| connect(1, b"GET /livez HTTP/1.1\r\n"))?;
    half[0].set_read_timeout(Some(FORGOTTEN))?;
    let mut answer = Vec::new();
    half[0].read_to_end(&mut answer).context("wait for the end of half a request")?;
    let mut closed = node.within(|| connect(1, b"GET /livez HTTP/1.0\r\n\r\n"))?;
    closed[0].shutdown(Shutdown::Write)?;
    answer.clear();
    closed[0].read_to_end(&mut answer)?;
    ensure!(answer.ends_with(b"ok\n"), "{}", String::from_utf8_lossy(&answer));
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /%00?%=&&exclude HTTP/1.1\r\n\r\n",
    ] {
        for stream in &mut node.within(|| connect(1, garbage.as_bytes()))? {
            stream.set_read_timeout(Some(FORGOTTEN))?;
            // A refusal, or the end of the connection.
            let _ = stream.read_to_end(&mut answer);
        }
    }
    scrape(node, "after")?;
    let grown = resident(&daemon)?.saturating_sub(memory);
    ensure!(grown < 4096, "memory grew by {grown} KiB");
    ensure!(!daemon.log().contains("panicked"), "{}", daemon.log());
    Ok(())
}
