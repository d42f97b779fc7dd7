//! What probing costs: processor time of an idle daemon, and of a real apiserver that many nodes probe.
//! Times are those of the scheduler, in nanoseconds, because a probe is far shorter than a clock tick.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::failover::Failover;
use integration::failover::trial::lab;
use integration::lab::Families;

/// How long each stretch is measured.
const STRETCH: Duration = Duration::from_secs(60);
/// Until a start has left no trace.
const SETTLE: Duration = Duration::from_secs(15);
/// Daemons that only probe, enough of them to be seen beside what an apiserver does by itself.
const NODES: u32 = 60;
/// What is extrapolated to.
const CLUSTER: u32 = 5_000;
/// An apiserver that no daemon watches.
const PROBED: u8 = 3;

/// Measures and prints.
pub fn print() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::RealEndpoints, &[1, 2, 3], &[])?;
    let apiserver = stage.plane.real()?.apiserver_pid(PROBED)?;
    thread::sleep(SETTLE);
    let [daemon, alone] = shares([stage.daemon.pid(), apiserver])?;
    println!("idle daemon: {:.3} % of a core over {} s", daemon * 100.0, STRETCH.as_secs());
    let options = DaemonOptions::kubeconfig(stage.plane.kubeconfig()?).arg("--dry-run");
    let mut nodes = Vec::new();
    for i in 0..NODES {
        let folder = lab.dir().join(format!("node-{i}"));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        nodes.push(Daemon::spawn(lab.node(), &folder, &options)?);
    }
    thread::sleep(SETTLE);
    let [probed] = shares([apiserver])?;
    let each = (probed - alone) / f64::from(NODES);
    println!(
        "apiserver {PROBED}: {:.2} % of a core with 1 node, {:.2} % with {}; {:.1} us a second for each node, \
         {:.2} cores for {CLUSTER} nodes",
        alone * 100.0,
        probed * 100.0,
        NODES + 1,
        each * 1e6,
        each * f64::from(CLUSTER)
    );
    for node in &mut nodes {
        node.kill()?;
    }
    Ok(())
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
