//! How long after its start a daemon has programmed the kernel while the API cannot be read: from seeds, and from saved
//! state. `scripts/bench cold-boot` builds everything in release mode and runs it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use integration::cold_boot::{ColdBoot, LIMIT, serves};
use integration::command::program;
use integration::control_plane::Variant;
use integration::daemon::DaemonOptions;
use integration::lab::{Lab, LabOptions};

const ROUNDS: usize = 200;
/// What the daemon logs after its first commit.
const PROGRAMMED: &str = "event=rules_programmed";
/// Writes the time at which it becomes the daemon, in seconds since 1970.
const STAMP: &str = r#"echo "$EPOCHREALTIME" >"$0"; exec "$@""#;
/// Between two looks at the log.
const PAUSE: Duration = Duration::from_micros(200);

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    let files = Files {
        log: lab.dir().join("apivip.stderr"),
        state: lab.dir().join("state"),
        started: lab.dir().join("started"),
    };
    println!("process start -> table programmed, {ROUNDS} starts each:\n");
    println!("| figure | bound | median | p90 | longest |");
    println!("|---|---|---|---|---|");

    let seeds = "192.0.2.11:6443,192.0.2.12:6443,192.0.2.13:6443";
    let options = files.stamped(boot.options(&["--seed", seeds, "--vip", &boot.vip().to_string()])?);
    let from_seeds = (0..ROUNDS).map(|_| start(&boot, &options, &files, false));
    show("from three seeds and `--vip`, without state", "100 ms", from_seeds.collect::<Result<_>>()?);

    boot.may_read(true)?;
    let mut daemon = boot.spawn(&options)?;
    let all: Vec<_> = (1..=3).map(|i| boot.plane.apiservers(i)[0]).collect();
    daemon
        .wait_for_status("the API's list", LIMIT, |status| serves(status, boot.vip(), &all, "published"))?;
    std::thread::sleep(Duration::from_secs(1));
    daemon.stop()?;
    boot.may_read(false)?;
    let options = files.stamped(boot.options(&[])?);
    let from_state = (0..ROUNDS).map(|_| start(&boot, &options, &files, true));
    show("from saved state, without seeds", "50 ms", from_state.collect::<Result<_>>()?);

    let nothing = (0..ROUNDS).map(|_| {
        lab.node().within(|| {
            let mut version = Command::new(program("apivip")?);
            let begin = Instant::now();
            let output = version.arg("--version").output().context("run apivip --version")?;
            ensure!(output.status.success(), "{output:?}");
            Ok(begin.elapsed())
        })
    });
    show(
        "`apivip --version` in the same namespace, which programs nothing",
        "-",
        nothing.collect::<Result<_>>()?,
    );
    Ok(())
}

/// What a start leaves behind.
struct Files {
    log: PathBuf,
    state: PathBuf,
    /// When the daemon became a process.
    started: PathBuf,
}

impl Files {
    /// These options, behind a shell that writes when it becomes the daemon.
    fn stamped(&self, options: DaemonOptions) -> DaemonOptions {
        let wrapper = ["bash", "-c", STAMP].into_iter().map(str::to_owned);
        DaemonOptions { wrapper: wrapper.chain([self.started.display().to_string()]).collect(), ..options }
    }
}

/// One start on a node without rules, and without state unless `keep` says so.
fn start(boot: &ColdBoot<'_>, options: &DaemonOptions, files: &Files, keep: bool) -> Result<Duration> {
    boot.forget_rules()?;
    if files.log.exists() {
        fs::remove_file(&files.log)?;
    }
    if !keep && files.state.exists() {
        fs::remove_dir_all(&files.state)?;
    }
    let begin = Instant::now();
    let mut daemon = boot.spawn(options)?;
    while !fs::read_to_string(&files.log).is_ok_and(|text| text.contains(PROGRAMMED)) {
        ensure!(begin.elapsed() < LIMIT, "it programmed nothing\n{}", daemon.log());
        std::thread::sleep(PAUSE);
    }
    let seen = SystemTime::now();
    daemon.kill()?;
    let text = fs::read_to_string(&files.started)?;
    let started: f64 = text.trim().parse().with_context(|| format!("parse {text:?}"))?;
    Ok(seen.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(started))?)
}

fn show(what: &str, bound: &str, mut times: Vec<Duration>) {
    times.sort();
    let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
    let last = times.len() - 1;
    println!(
        "| {what} | {bound} | {:.1} ms | {:.1} ms | {:.1} ms |",
        millis(last / 2),
        millis(last * 9 / 10),
        millis(last)
    );
}
