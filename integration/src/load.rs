//! The generator of connections as a test runs it, in a namespace, while something happens.
//! In: where from, where to and how often. Out: a [`Report`], or an error that shows what went wrong.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::netns::Namespace;
use crate::process::{Signal, Spawned};
use crate::sim::load::report::Report;

/// Longest until the first connection succeeds, and until the last is accounted for: the time that an attempt may
/// take, twice.
const LIMIT: Duration = Duration::from_secs(20);

/// A running generator. Dropping it kills it.
#[derive(Debug)]
pub struct Load {
    process: Spawned,
    rate: u32,
}

/// What a generator does.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// `tcp` or `echo`.
    pub kind: &'a str,
    /// Where new connections go, in turn.
    pub targets: &'a [SocketAddr],
    /// New connections a second.
    pub rate: u32,
    /// Client addresses, in turn; none leaves the choice to the kernel.
    pub sources: &'a [IpAddr],
    /// Long-lived echo connections, opened first.
    pub established: usize,
    /// Where those go; none means `targets`.
    pub established_targets: &'a [SocketAddr],
}

impl<'a> Plan<'a> {
    /// New connections only, from one address.
    pub fn new(kind: &'a str, targets: &'a [SocketAddr], rate: u32) -> Self {
        Self { kind, targets, rate, sources: &[], established: 0, established_targets: &[] }
    }
}

impl Load {
    /// Starts to open `rate` connections a second to the targets in turn, and returns once the first succeeded.
    /// `kind` is `tcp` or `echo`. Its output goes to `FOLDER/NAME.stdout`.
    pub fn start(
        from: &Namespace,
        folder: &Path,
        name: &str,
        kind: &str,
        targets: &[SocketAddr],
        rate: u32,
    ) -> Result<Self> {
        Self::planned(from, folder, name, &Plan::new(kind, targets, rate))
    }

    /// Does what a plan says, and returns once the first connection succeeded.
    pub fn planned(from: &Namespace, folder: &Path, name: &str, plan: &Plan<'_>) -> Result<Self> {
        let rate = plan.rate;
        let mut load = from.command(command::program("load")?);
        load.args(["--json", "--kind", plan.kind, "--rate", &rate.to_string()]);
        load.args(["--established", &plan.established.to_string()]);
        for (argument, addresses) in
            [("--target", plan.targets), ("--established-target", plan.established_targets)]
        {
            for address in addresses {
                load.args([argument, &address.to_string()]);
            }
        }
        for source in plan.sources {
            load.args(["--source", &source.to_string()]);
        }
        let mut process = Spawned::start(name, load, folder)?;
        match process.wait_for_line("started", LIMIT) {
            Ok(_) => Ok(Self { process, rate }),
            // Its report says why no connection succeeded.
            Err(error) => Err(match (Self { process, rate }).finish() {
                Ok(report) => error.context(report.to_string()),
                Err(_) => error,
            }),
        }
    }

    /// Ends the run once every attempt is accounted for.
    pub fn finish(mut self) -> Result<Report> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "the generator ended with {status}\n{}", self.process.tail());
        let output = self.process.stdout();
        let last = output.lines().last().context("the generator said nothing")?;
        serde_json::from_str(last).context("parse the generator's report")
    }

    /// Ends the run and fails if any connection failed, or if the generator could not keep its rate.
    pub fn finish_clean(self) -> Result<Report> {
        let rate = u64::from(self.rate);
        let report = self.finish()?;
        let expected = rate * report.elapsed_ms / 1000;
        println!("{report}");
        ensure!(report.clean(), "connections failed\n{report}");
        ensure!(
            report.attempted >= expected / 2,
            "only {} of {expected} attempts\n{report}",
            report.attempted
        );
        Ok(report)
    }
}
