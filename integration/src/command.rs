//! Short-lived commands: run one to its end within a deadline, and find the programs that this workspace builds.
//! In: a `Command` and its standard input. Out: its standard output, or an error that shows what it said.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// Longest that a short-lived command may take. Each usually takes milliseconds; nft can wait for another
/// transaction of the same namespace.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What a finished command left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Runs `command` to its end, whatever its exit status. Fails if it cannot start, or does not end within `limit`
/// (it is killed then).
pub fn finish(mut command: Command, stdin: &str, limit: Duration) -> Result<Finished> {
    let shown = shown(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let writer = child.stdin.take().map(|mut pipe| {
        let text = stdin.to_owned();
        // A command that exits early closes its end; its exit status tells the story, not this write.
        thread::spawn(move || drop(pipe.write_all(text.as_bytes())))
    });
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait(&mut child, limit).with_context(|| format!("run `{shown}`"))?;
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.map_or_else(|| Ok(String::new()), thread::JoinHandle::join)
    };
    let stdout = text(stdout).map_err(|_| anyhow!("read the output of `{shown}`"))?;
    let stderr = text(stderr).map_err(|_| anyhow!("read the errors of `{shown}`"))?;
    if let Some(writer) = writer {
        writer.join().map_err(|_| anyhow!("write the input of `{shown}`"))?;
    }
    Ok(Finished { status, stdout, stderr })
}

/// Runs `command` and returns its standard output. An exit status other than 0 is an error that holds what the
/// command printed.
pub fn run(command: Command, stdin: &str) -> Result<String> {
    let shown = shown(&command);
    let finished = finish(command, stdin, COMMAND_LIMIT)?;
    if !finished.status.success() {
        bail!(
            "`{shown}` ended with {}: {}{}",
            finished.status,
            finished.stderr.trim(),
            finished.stdout.trim()
        );
    }
    Ok(finished.stdout)
}

/// The path of a program that this workspace builds, such as `apivip`. It stands in the profile folder of the
/// running test or program, for instance `target/debug`.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running executable")?;
    let folder = own.parent().context("find the folder of the running executable")?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("deps" | "examples") => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let path = profile.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

/// Waits until `child` has ended; kills it once `limit` is over.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().context("wait for a child process")? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill().context("kill a child process")?;
            child.wait().context("wait for a killed child process")?;
            bail!("still running after {limit:?}, so it was killed");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error ends the text early; the exit status decides what becomes of it.
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
