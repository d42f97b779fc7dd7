//! The program `clients` as a test runs it, in a namespace, while something happens.
//! In: where from, and how many connections of which kind. Out: a [`Timeline`], and each end as it happens.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::control_plane::ControlPlane;
use crate::netns::Namespace;
use crate::process::{Signal, Spawned};
use crate::sim::clients::config::Fresh;
use crate::sim::clients::timeline::{Connection, Timeline};

/// Longest until every connection got through.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How many connections of each kind one program has.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Time between two fresh connections; `None` opens none.
    pub fresh_every: Option<Duration>,
    /// What a fresh connection does.
    pub fresh: Fresh,
    /// The longest that a fresh connection may take.
    pub timeout: Duration,
    /// Connections on which nothing is said.
    pub idle: usize,
    /// Watches on which nothing happens.
    pub watch: usize,
    /// Watches whose client has closed its half.
    pub half_closed: usize,
    /// Busy uploads.
    pub upload: usize,
    /// Busy downloads.
    pub download: usize,
    /// Connections with requests all the time, answered or not.
    pub pipelined: usize,
}

impl Default for Mix {
    /// Some of every kind, and as many fresh ones as two cores can serve beside other tests.
    fn default() -> Self {
        Self {
            fresh_every: Some(Duration::from_millis(25)),
            fresh: Fresh::Tls,
            timeout: Duration::from_secs(15),
            idle: 20,
            watch: 6,
            half_closed: 0,
            upload: 3,
            download: 3,
            pipelined: 0,
        }
    }
}

/// Running clients. Dropping them kills them.
#[derive(Debug)]
pub struct Clients {
    process: Spawned,
    timeout: Duration,
    kept: Vec<SocketAddr>,
}

impl Clients {
    /// Starts them and returns once every long-lived connection and a fresh one got through. Their output goes to
    /// `FOLDER/NAME.stdout`.
    pub fn start(
        from: &Namespace,
        folder: &Path,
        name: &str,
        plane: &ControlPlane<'_>,
        targets: &[SocketAddr],
        mix: &Mix,
    ) -> Result<Self> {
        let mut clients = from.command(command::program("clients")?);
        clients.arg("--ca").arg(plane.authority()).args(["--token", plane.token()]);
        for target in targets {
            clients.args(["--target", &target.to_string()]);
        }
        if let Some(every) = mix.fresh_every {
            clients.args(["--fresh-every", &every.as_millis().to_string()]);
        }
        let fresh = match mix.fresh {
            Fresh::Tcp => "tcp",
            Fresh::Tls => "tls",
        };
        clients.args(["--fresh", fresh, "--timeout", &mix.timeout.as_millis().to_string()]);
        for (argument, count) in [
            ("--idle", mix.idle),
            ("--watch", mix.watch),
            ("--half-closed", mix.half_closed),
            ("--upload", mix.upload),
            ("--download", mix.download),
            ("--pipelined", mix.pipelined),
        ] {
            clients.args([argument, &count.to_string()]);
        }
        let mut process = Spawned::start(name, clients, folder)?;
        let line = process.wait_for_line("started [", START_LIMIT)?;
        let kept =
            line.strip_prefix("started ").with_context(|| format!("no list of connections in {line:?}"))?;
        let kept = serde_json::from_str(kept).context("parse which connections are kept")?;
        Ok(Self { process, timeout: mix.timeout, kept })
    }

    /// The clients' own addresses of the long-lived connections.
    pub fn kept(&self) -> &[SocketAddr] {
        &self.kept
    }

    /// The long-lived connections that have ended so far.
    pub fn ended(&self) -> Result<Vec<Connection>> {
        let output = self.process.stdout();
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        let lines = whole.lines().filter_map(|line| line.strip_prefix("ended "));
        lines.map(|line| serde_json::from_str(line).context("parse the end of a connection")).collect()
    }

    /// Asks them to end; fresh connections under way are waited for by [`Clients::finish`].
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits for the end after [`Clients::stop`].
    pub fn finish(mut self) -> Result<Timeline> {
        let status = self.process.wait(self.timeout * 2 + START_LIMIT)?;
        ensure!(status.success(), "the clients ended with {status}\n{}", self.process.stderr());
        let output = self.process.stdout();
        let last = output.lines().last().context("the clients said nothing")?;
        serde_json::from_str(last).context("parse the clients' timeline")
    }
}
