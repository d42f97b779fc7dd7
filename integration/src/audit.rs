//! `apivip-audit` as an operator runs it on a node of a lab.
//! In: arguments. Out: what it found, by check and subject; the time and the memory that it took are bounded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::check::Checked;
use crate::command;
use crate::lab::Lab;
use crate::process::Spawned;
use crate::refusal;

/// It promises to end within three quarters of a minute, and usually takes 4 s where a server hangs.
pub const LIMIT: Duration = Duration::from_secs(300);
/// In KiB. It usually takes 30 MiB; a flood that were not cut off would be 100.
const MOST_MEMORY: u64 = 90 << 10;
/// Between two looks at a running one.
const PAUSE: Duration = Duration::from_millis(2);

/// The folder that stands for the host's `/proc`: it has no processes but those that a test puts there.
pub fn proc(lab: &Lab) -> Result<PathBuf> {
    let proc = lab.dir().join("proc");
    fs::create_dir_all(&proc).context("make a folder for processes")?;
    Ok(proc)
}

/// The command, with the run and state folders of a daemon of the lab.
pub fn command(lab: &Lab) -> Result<Command> {
    command_behind(lab, &[])
}

/// The same, started by the words of `wrapper`.
fn command_behind(lab: &Lab, wrapper: &[String]) -> Result<Command> {
    let mut command = lab.node().command_behind(wrapper, command::program("apivip-audit")?);
    refusal::clean_environment(&mut command);
    command.env_remove("NODE_NAME");
    command.arg("--run-dir").arg(lab.dir().join("run"));
    command.arg("--state-dir").arg(lab.dir().join("state"));
    command.arg("--host-proc").arg(proc(lab)?);
    command.arg("--apiserver-manifest").arg(lab.dir().join("kube-apiserver.yaml"));
    Ok(command)
}

/// Runs it with these arguments, whatever it finds. Fails if it takes too long or too much memory.
pub fn audit<S: AsRef<str>>(lab: &Lab, arguments: &[S]) -> Result<Checked> {
    audit_behind(lab, &[], arguments)
}

/// The same, started by the words of `wrapper`.
pub fn audit_behind<S: AsRef<str>>(lab: &Lab, wrapper: &[String], arguments: &[S]) -> Result<Checked> {
    let mut command = command_behind(lab, wrapper)?;
    command.args(["-o", "json", "--fail-on", "never"]).args(arguments.iter().map(AsRef::as_ref));
    let folder = tempfile::tempdir_in(lab.dir()).context("make a folder")?;
    let begin = Instant::now();
    let mut running = Spawned::start("audit", command, folder.path())?;
    let mut memory = 0;
    let status = loop {
        memory = memory.max(peak(running.pid()));
        if let Some(status) = running.exited()? {
            break status;
        }
        ensure!(begin.elapsed() < LIMIT, "it goes on for ever");
        std::thread::sleep(PAUSE);
    };
    let said = running.stderr();
    ensure!(status.success() && said.is_empty(), "{status}: {said}");
    ensure!(0 < memory && memory < MOST_MEMORY, "it took {memory} KiB");
    let text = running.stdout();
    let report = serde_json::from_str(&text).with_context(|| format!("read the report {text:?}"))?;
    Ok(Checked { code: status.code(), report, took: begin.elapsed() })
}

/// The most memory that a process has had so far, in KiB; 0 if it has ended.
fn peak(pid: u32) -> u64 {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
