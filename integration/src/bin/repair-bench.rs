//! How long a change that another program makes of the table stands: from that program's transaction to the daemon's, as a
//! listener outside both hears of them. `scripts/bench repair` builds everything in release mode and runs it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions};
use integration::netns::Namespace;
use integration::scenario::Scenario;

const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);
/// So seldom that the daemon does not take it for a fight, in which it waits.
const PAUSE: Duration = Duration::from_millis(1200);

const CHANGES: [&str; 5] = [
    "flush ruleset",
    "delete table inet apivip",
    "flush chain inet apivip nat-output",
    "flush chain inet apivip nat-postrouting\ndelete chain inet apivip nat-postrouting",
    "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop",
];

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--table-owner=off");
    let mut daemon = scenario.daemon()?;
    let mut monitor = Monitor::start(lab.node())?;
    println!("another program's transaction -> the daemon's, {ROUNDS} times each:");
    for script in CHANGES {
        let mut times =
            (0..ROUNDS).map(|_| monitor.repair(lab.node(), script)).collect::<Result<Vec<_>>>()?;
        times.sort();
        let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
        let (median, longest) = (millis(ROUNDS / 2), millis(ROUNDS - 1));
        println!("  {:?}: median {median:.2} ms, longest {longest:.2} ms", script.replace('\n', "; "));
    }
    println!("by the daemon's own clock, from the event to its commit:");
    let metrics = daemon.metrics()?;
    let own = metrics.lines().filter(|line| line.starts_with("apivip_drift_repair_seconds"));
    own.for_each(|line| println!("  {line}"));
    daemon.stop()?;
    Ok(())
}

/// `nft monitor`, and when each of its lines came.
struct Monitor {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Monitor {
    fn start(node: &Namespace) -> Result<Self> {
        let mut command = node.command("nft");
        command.arg("monitor").stdout(Stdio::piped());
        let mut child = command.spawn().context("start nft monitor")?;
        let output = BufReader::new(child.stdout.take().context("nft monitor has no output")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The time between the transaction of `script` and the next of anybody else.
    fn repair(&mut self, node: &Namespace, script: &str) -> Result<Duration> {
        thread::sleep(PAUSE);
        while self.lines.try_recv().is_ok() {}
        node.nft_load(script)?;
        let changed = self.generation(true)?;
        let repaired = self.generation(false)?;
        Ok(repaired.duration_since(changed))
    }

    /// When the next transaction was told: nft's, or that of another program.
    fn generation(&mut self, by_nft: bool) -> Result<Instant> {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line))
                    if line.starts_with("# new generation") && line.contains("(nft)") == by_nft =>
                {
                    return Ok(at);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(left > Duration::ZERO, "no transaction within {LIMIT:?}")
                }
                Err(error) => return Err(error).context("nft monitor has ended"),
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
