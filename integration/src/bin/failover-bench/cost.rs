//! What probing costs: processor time of an idle daemon, and of a real API server that many nodes probe.
//! Times are those of the scheduler, in nanoseconds, because a probe is far shorter than a clock tick.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use integration::command;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::lab;
use integration::lab::Families;
use integration::process::Spawned;

/// How long each stretch is measured.
const STRETCH: Duration = Duration::from_secs(60);
/// Until a start costs nothing any more.
const SETTLE: Duration = Duration::from_secs(15);
/// An API server that no daemon watches.
const PROBED: u8 = 3;

/// What is measured.
#[derive(Args)]
pub struct Cost {
    /// Nodes that probe one API server; repeatable
    #[arg(long, value_name = "N", default_values_t = [60, 1000, 5000])]
    nodes: Vec<u32>,
    /// More arguments for the program `probers`
    #[arg(last = true)]
    probers: Vec<String>,
}

impl Cost {
    /// Measures and prints.
    pub fn print(&self) -> Result<()> {
        let lab = lab(Families::V4)?;
        let mut stage = Failover::start(&lab, Variant::Real, &[1, 2, 3], &[])?;
        let plane = stage.plane.real()?;
        let (apiserver, target) = (plane.apiserver_pid(PROBED)?, plane.address(PROBED));
        let kubeconfig = stage.plane.kubeconfig_naming(target)?;
        thread::sleep(SETTLE);
        let [daemon, alone] = shares([stage.daemon.pid(), apiserver])?;
        println!("idle daemon: {:.3} % of a core over {} s", daemon * 100.0, STRETCH.as_secs());
        let resident = resident_mib(apiserver)?;
        println!(
            "API server {PROBED}: {:.2} % of a core with 1 node; {resident} MiB resident",
            alone * 100.0
        );
        println!("\n| nodes | processor time | a second for each node | resident |");
        println!("|---|---|---|---|");
        for nodes in &self.nodes {
            let mut command = lab.node().command(command::program("probers")?);
            command.arg("--target").arg(target.to_string()).arg("--kubeconfig").arg(&kubeconfig);
            command.arg("--nodes").arg(nodes.to_string()).args(&self.probers);
            let mut probers = Spawned::start(&format!("probers-{nodes}"), command, lab.dir())?;
            probers.wait_for_line("ready", Duration::from_secs(u64::from(*nodes)))?;
            thread::sleep(SETTLE);
            let [probed] = shares([apiserver])?;
            let resident = resident_mib(apiserver)?;
            let more = probed - alone;
            println!(
                "| {nodes} | {:.1} % of a core | {:.0} us | {resident} MiB |",
                more * 100.0,
                more / f64::from(*nodes) * 1e6
            );
            probers.kill()?;
            thread::sleep(SETTLE);
        }
        Ok(())
    }
}

/// The share of one core that each process takes for a while.
fn shares<const N: usize>(processes: [u32; N]) -> Result<[f64; N]> {
    let begin = Instant::now();
    let before = processes.map(running_ns);
    thread::sleep(STRETCH);
    let mut shares = [0.0; N];
    for ((share, before), process) in shares.iter_mut().zip(before).zip(processes) {
        let ran = running_ns(process)?.saturating_sub(before?);
        *share = ran as f64 / begin.elapsed().as_nanos() as f64;
    }
    Ok(shares)
}

/// `VmRSS` of a process, in MiB.
fn resident_mib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().context("parse VmRSS")?;
    Ok(kib / 1024)
}

/// How long the threads of a process have run, as proc_pid_schedstat has it: its first field.
fn running_ns(process: u32) -> Result<u64> {
    let tasks = format!("/proc/{process}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        let path = task?.path().join("schedstat");
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().with_context(|| format!("parse {}", path.display()))?;
    }
    Ok(sum)
}
