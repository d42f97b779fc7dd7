//! Long-running child processes of a test.
//! In: a `Command`. Out: a [`Spawned`] whose output lies in files, that can be signalled and waited for, and that
//! is killed when dropped. When a test panics or a wait fails, the last lines of its output are shown.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};

pub use rustix::process::Signal;

use crate::command;

/// How many lines of each output a failure shows.
const TAIL_LINES: usize = 40;

/// Lets this process have as many descriptors as it may: each connection needs one.
pub fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("raise RLIMIT_NOFILE")
}

/// How many descriptors a process may have here, at most.
pub fn most_descriptors() -> usize {
    getrlimit(Resource::Nofile).maximum.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX)
}

/// A running child process.
#[derive(Debug)]
pub struct Spawned {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Spawned {
    /// Starts `command`. Its output goes to `NAME.stdout` and `NAME.stderr` in `folder`, after what an earlier
    /// process of that name wrote.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        command.stdin(Stdio::null());
        Self::start_as_is(name, command, folder)
    }

    /// The same for a program that reads what is written here. Its input ends when this process does, if not before.
    pub fn start_with_input(name: &str, mut command: Command, folder: &Path) -> Result<(Self, ChildStdin)> {
        command.stdin(Stdio::piped());
        let mut started = Self::start_as_is(name, command, folder)?;
        let input = started.child.stdin.take().context("a pipe has two ends")?;
        Ok((started, input))
    }

    fn start_as_is(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let open = |stream: &str| -> Result<(PathBuf, File)> {
            let path = folder.join(format!("{name}.{stream}"));
            let file = File::options().create(true).append(true).open(&path);
            Ok((path.clone(), file.with_context(|| format!("open {}", path.display()))?))
        };
        let (stdout, out) = open("stdout")?;
        let (stderr, err) = open("stderr")?;
        let child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start `{}`", command::shown(&command)))?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All of its standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// All of its standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Sends a signal. Fails if the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} has ended already, with {status}\n{}", self.name, self.tail());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// The exit status, or `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// Waits until it has ended by itself or by an earlier signal; kills it and fails after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        command::wait(&mut self.child, limit)
            .with_context(|| format!("wait for the end of {}\n{}", self.name, self.tail()))
    }

    /// Kills it with SIGKILL and waits until it is gone. Fine when it has ended before.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Waits until a line of its output contains `text` and returns that line. Fails when the process ends
    /// without it, or after `limit`.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("the line {text:?}");
        self.wait_until(&what, limit, |process| {
            let found = [process.stdout(), process.stderr()]
                .iter()
                .find_map(|output| output.lines().find(|line| line.contains(text)).map(str::to_owned));
            Ok(found)
        })
    }

    /// Asks `question` until it answers `Some`, while the process runs. `what` says in an error what was waited
    /// for.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            // Looked at before the question, so that the last words of a process that ends still count.
            let ended = self.exited()?;
            if let Some(answer) = question(self)? {
                return Ok(answer);
            }
            if let Some(status) = ended {
                bail!("{} ended with {status} before {what}\n{}", self.name, self.tail());
            }
            if Instant::now() >= deadline {
                bail!("no sign of {what} from {} within {limit:?}\n{}", self.name, self.tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The last lines of its output, to be shown with an error.
    pub fn tail(&self) -> String {
        [("stdout", self.stdout()), ("stderr", self.stderr())]
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(stream, text)| {
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
                format!("last {stream} of {}:\n  {last}\n", self.name)
            })
            .collect()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
