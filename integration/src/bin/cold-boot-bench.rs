//! How long after its start a daemon has programmed the kernel while the API cannot be read: from seeds, and from saved
//! state. `scripts/bench cold-boot` builds everything in release mode and runs it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::cold_boot::{ColdBoot, LIMIT, serves};
use integration::command::{self, program};
use integration::control_plane::Variant;
use integration::daemon::DaemonOptions;
use integration::lab::{Lab, LabOptions};

const ROUNDS: usize = 50;
/// What the daemon logs after its first commit.
const PROGRAMMED: &str = "programmed table inet apivip";
/// Between two looks at the log.
const PAUSE: Duration = Duration::from_micros(200);

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::SimulatedSlices, true)?;
    let (log, state) = (lab.dir().join("apivip.stderr"), lab.dir().join("state"));
    println!("process start -> table programmed, {ROUNDS} starts each, entering the namespace included:");

    let seeds = "192.0.2.11:6443,192.0.2.12:6443,192.0.2.13:6443";
    let options = boot.options(&["--seed", seeds, "--vip", &boot.vip().to_string()])?;
    let from_seeds = (0..ROUNDS).map(|_| start(&boot, &options, &log, Some(&state)));
    show("from seeds, without state", from_seeds.collect::<Result<_>>()?);

    boot.may_read(true)?;
    let mut daemon = boot.spawn(&options)?;
    let all: Vec<_> = (1..=3).map(|i| boot.plane.apiservers(i)[0]).collect();
    daemon
        .wait_for_status("the API's list", LIMIT, |status| serves(status, boot.vip(), &all, "published"))?;
    std::thread::sleep(Duration::from_secs(1));
    daemon.stop()?;
    boot.may_read(false)?;
    let options = boot.options(&[])?;
    let from_state = (0..ROUNDS).map(|_| start(&boot, &options, &log, None));
    show("from saved state, without seeds", from_state.collect::<Result<_>>()?);

    let nothing = (0..ROUNDS).map(|_| {
        let mut version = lab.node().command(program("apivip")?);
        version.arg("--version");
        let begin = Instant::now();
        command::run(version, "")?;
        Ok(begin.elapsed())
    });
    show("apivip --version in the same namespace", nothing.collect::<Result<_>>()?);
    Ok(())
}

/// One start on a node that knows nothing but what it is given; without the folder `forget` of an earlier run.
fn start(
    boot: &ColdBoot<'_>,
    options: &DaemonOptions,
    log: &Path,
    forget: Option<&Path>,
) -> Result<Duration> {
    boot.forget_rules()?;
    for path in [Some(log), forget].into_iter().flatten().filter(|path| path.exists()) {
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    let begin = Instant::now();
    let mut daemon = boot.spawn(options)?;
    while !std::fs::read_to_string(log).is_ok_and(|text| text.contains(PROGRAMMED)) {
        ensure!(begin.elapsed() < LIMIT, "it programmed nothing\n{}", daemon.log());
        std::thread::sleep(PAUSE);
    }
    let took = begin.elapsed();
    daemon.kill()?;
    Ok(took)
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
    let last = times.len() - 1;
    println!(
        "  {what}: median {:.1} ms, p90 {:.1} ms, longest {:.1} ms",
        millis(last / 2),
        millis(last * 9 / 10),
        millis(last)
    );
}
