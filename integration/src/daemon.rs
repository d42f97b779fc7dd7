//! The daemon under test, run as an operator runs it.
//! In: a namespace, a kubeconfig, arguments. Out: a [`Daemon`] that can be asked, stopped and killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;
use crate::netns::Namespace;
use crate::process::{Signal, Spawned};

/// Longest until a daemon has programmed the kernel. It usually takes a tenth of a second.
const PROGRAMMED_LIMIT: Duration = Duration::from_secs(60);

/// Longest that a daemon may take to end after SIGTERM. The promise is one second.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Exit codes of `apivip status` where a daemon answers.
const OK: i32 = apivip::cli::OK as i32;
const DEGRADED: i32 = apivip::cli::DEGRADED as i32;
const FAILING: i32 = apivip::cli::FAILING as i32;

/// The state directory in a daemon's folder.
const STATE_DIR: &str = "state";

/// How the daemon is started.
#[derive(Clone, Debug, Default)]
pub struct DaemonOptions {
    /// The value of `--kubeconfig`; without one the daemon takes in-cluster credentials.
    pub kubeconfig: Option<PathBuf>,
    /// More arguments of `apivip run`.
    pub arguments: Vec<String>,
    /// Environment variables, added to those of the test.
    pub environment: Vec<(String, String)>,
    /// A program that runs the daemon, such as `prlimit`, with its arguments. It must replace itself by the daemon.
    pub wrapper: Vec<String>,
}

impl DaemonOptions {
    /// With this kubeconfig and nothing else.
    pub fn kubeconfig(path: impl Into<PathBuf>) -> Self {
        Self { kubeconfig: Some(path.into()), ..Self::default() }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Spawned,
    program: PathBuf,
    folder: PathBuf,
    run_dir: PathBuf,
}

impl Daemon {
    /// Starts the daemon and waits until clients are served with what the API says, by rules or, where `--mode
    /// forwarder` is among the options, by the forwarder. Its run directory is
    /// `FOLDER/run`, its state directory `FOLDER/state`, its log `FOLDER/apivip.stderr`; a second start with the same
    /// folder is a restart.
    pub fn start(node: &Namespace, folder: &Path, options: &DaemonOptions) -> Result<Self> {
        let mut daemon = Self::spawn(node, folder, options)?;
        // Generation 0 is what seeds and saved state say.
        let forwards = options.arguments.windows(2).any(|two| two == ["--mode", "forwarder"]);
        let phase = if forwards { "forwarding" } else { "programmed" };
        daemon.wait_for_status("service of what the API says", PROGRAMMED_LIMIT, |status| {
            status["phase"] == phase && status["generation"] != 0
        })?;
        Ok(daemon)
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(node: &Namespace, folder: &Path, options: &DaemonOptions) -> Result<Self> {
        let program = command::program("apivip")?;
        let command = run_command(node, &program, folder, options);
        let process = Spawned::start("apivip", command, folder)?;
        Ok(Self { process, program, folder: folder.to_owned(), run_dir: folder.join("run") })
    }

    /// Waits until the status names this phase.
    pub fn wait_for_phase(&mut self, phase: &str, limit: Duration) -> Result<Value> {
        self.wait_for_status(&format!("the phase {phase:?}"), limit, |status| status["phase"] == phase)
    }

    /// Waits until the status is as `wanted` says; `what` names that in an error. A daemon that does not answer yet
    /// is asked again.
    pub fn wait_for_status(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let (program, run_dir) = (self.program.clone(), self.run_dir.clone());
        self.process
            .wait_until(what, limit, |_| Ok(ask_status(&program, &run_dir).ok().filter(|s| wanted(s))))
    }

    /// Waits until the node's clients are served by `nftables`, by the `forwarder`, or by `none`.
    pub fn wait_for_dataplane(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let what = format!("the dataplane {name:?}");
        self.wait_for_status(&what, limit, |status| status["dataplane"]["in_use"] == name)
    }

    /// Waits until it has saved its state, which comes after the rules and waits for the disk.
    pub fn wait_for_state(&mut self, limit: Duration) -> Result<PathBuf> {
        let file = self.state_file();
        self.process.wait_until("the state's file", limit, |_| Ok(file.exists().then(|| file.clone())))
    }

    /// Waits until exactly these backends serve the virtual IP and port.
    pub fn wait_for_backends(&mut self, vip: SocketAddr, backends: &[SocketAddr]) -> Result<Value> {
        let mut wanted: Vec<SocketAddr> = backends.to_vec();
        wanted.sort();
        let what = format!("{vip} served by {wanted:?}");
        self.wait_for_status(&what, PROGRAMMED_LIMIT, |status| backends_of(status, vip) == wanted)
    }

    /// What `apivip status --output json` says.
    pub fn status(&self) -> Result<Value> {
        ask_status(&self.program, &self.run_dir)
    }

    /// What `apivip status --metrics` says.
    pub fn metrics(&self) -> Result<String> {
        command::run(status_command(&self.program, &self.run_dir, "--metrics"), "")
    }

    /// The value of one metric, written as in the text, with its labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        metric_in(&self.metrics()?, name)
    }

    /// Waits until this metric is as `wanted` says.
    pub fn wait_for_metric(
        &mut self,
        name: &str,
        limit: Duration,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<u64> {
        let (program, run_dir) = (self.program.clone(), self.run_dir.clone());
        self.process.wait_until(&format!("the metric {name}"), limit, |_| {
            let text = command::run(status_command(&program, &run_dir, "--metrics"), "")?;
            Ok(Some(metric_in(&text, name)?).filter(|value| wanted(*value)))
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        format!("{}{}", self.process.stdout(), self.process.stderr())
    }

    /// What it said, ahead of an error: after it, a report that shows its two ends only keeps the error.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|_| println!("the daemon says\n{}", self.log()))
    }

    /// The last lines of its output, to be shown with an error.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// The process, for signals and for lines of its log.
    pub fn process(&mut self) -> &mut Spawned {
        &mut self.process
    }

    /// Sends SIGTERM and waits for the end. Returns how it ended and how long that took.
    pub fn stop(&mut self) -> Result<(ExitStatus, Duration)> {
        self.stop_within(STOP_LIMIT)
    }

    /// The same where it may take longer.
    pub fn stop_within(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let begin = Instant::now();
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(limit)?;
        Ok((status, begin.elapsed()))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// The folder that holds its lock and its socket.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The folder that holds its last good state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join(STATE_DIR)
    }

    /// The file in it.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir().join("state")
    }

    /// `apivip cleanup` on the same node, for the same folders.
    pub fn cleanup_command(&self, node: &Namespace) -> Command {
        let mut cleanup = node.command(&self.program);
        cleanup.arg("cleanup").arg("--run-dir").arg(&self.run_dir).arg("--state-dir").arg(self.state_dir());
        cleanup
    }
}

fn metric_in(text: &str, name: &str) -> Result<u64> {
    let values = text.lines().filter_map(|line| line.rsplit_once(' '));
    let value = values.filter(|(series, _)| *series == name).map(|(_, value)| value).next();
    let value = value.with_context(|| format!("find the metric {name} in\n{text}"))?;
    value.parse().with_context(|| format!("parse the metric {name}"))
}

/// The backends that share new connections to one virtual IP and port, in order; none where it is not programmed.
pub fn backends_of(status: &Value, vip: SocketAddr) -> Vec<SocketAddr> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let frontends = list(&status["frontends"]).into_iter().filter(|f| f["vip"] == vip.to_string());
    let backends = frontends.flat_map(|frontend| list(&frontend["backends"])).filter(|b| b["used"] == true);
    let mut found: Vec<SocketAddr> =
        backends.filter_map(|backend| backend["address"].as_str()?.parse().ok()).collect();
    found.sort();
    found
}

/// All backends that a status shows, of every virtual IP and port.
pub fn every_backend(status: &Value) -> impl Iterator<Item = &Value> {
    let frontends = status["frontends"].as_array().into_iter().flatten();
    frontends.flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten())
}

/// Whether the status says of a backend that it does not answer: it gets no new connections.
pub fn is_out(backend: &Value) -> bool {
    matches!(backend["state"].as_str(), Some("suspect" | "failed"))
}

/// Runs the daemon to its end, for starts that must fail. Fails if it still runs after `limit`.
pub fn run_to_end(
    node: &Namespace,
    folder: &Path,
    options: &DaemonOptions,
    limit: Duration,
) -> Result<command::Finished> {
    let program = command::program("apivip")?;
    command::finish(run_command(node, &program, folder, options), "", limit)
}

fn run_command(node: &Namespace, program: &Path, folder: &Path, options: &DaemonOptions) -> Command {
    let mut command = node.command_behind(&options.wrapper, program);
    command.arg("run");
    if let Some(path) = &options.kubeconfig {
        command.arg("--kubeconfig").arg(path);
    }
    command.arg("--run-dir").arg(folder.join("run")).arg("--state-dir").arg(folder.join(STATE_DIR));
    command.args(&options.arguments);
    // A test must not wait for a minute until what changed by itself is seen.
    command.envs([("APIVIP_READYZ_INTERVAL", "10s"), ("APIVIP_SELFTEST_INTERVAL", "5s")]);
    command.envs(options.environment.iter().map(|(key, value)| (key, value)));
    command
}

fn status_command(program: &Path, run_dir: &Path, form: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("status").arg("--run-dir").arg(run_dir).args(form.split(' '));
    command
}

pub(crate) fn ask_status(program: &Path, run_dir: &Path) -> Result<Value> {
    let finished =
        command::finish(status_command(program, run_dir, "--output json"), "", command::COMMAND_LIMIT)?;
    if !matches!(finished.status.code(), Some(OK | DEGRADED | FAILING)) {
        bail!("apivip status ended with {}: {}", finished.status, finished.stderr.trim());
    }
    serde_json::from_str(&finished.stdout).context("parse the status")
}
