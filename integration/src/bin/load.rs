//! An open-loop generator of connections; see [`integration::sim::load`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use integration::sim::load::config::{Config, Kind, TlsKind};
use integration::sim::load::report::Report;
use integration::sim::load::{self, Observer};
use tokio::signal::unix::{SignalKind, signal};

/// Opens connections at a fixed rate and reports the result of each.
///
/// The exit status is 0 whenever the run itself worked: the report is the result.
#[derive(Parser)]
#[command(name = "load")]
struct Arguments {
    /// Where to connect; repeatable, taken in turn
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    target: Vec<SocketAddr>,
    /// New connections per second
    #[arg(long)]
    rate: f64,
    /// Seconds to run; without it until SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Client address; repeatable, taken in turn
    #[arg(long, value_name = "ADDR")]
    source: Vec<IpAddr>,
    /// What to do with each connection
    #[arg(long, value_enum, default_value = "tcp")]
    kind: KindName,
    /// CA bundle (tls)
    #[arg(long, required_if_eq("kind", "tls"))]
    ca: Option<PathBuf>,
    /// Name in the server's certificate (tls)
    #[arg(long, default_value = "kubernetes.default.svc")]
    server_name: String,
    /// Bearer token (tls)
    #[arg(long)]
    token: Option<String>,
    /// The longest that one attempt may take
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout: u64,
    /// Long-lived echo connections, opened first
    #[arg(long, value_name = "N", default_value_t = 0)]
    established: usize,
    /// Where the long-lived ones go; repeatable; --target when absent
    #[arg(long, value_name = "ADDR:PORT")]
    established_target: Vec<SocketAddr>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Print the counts so far as a JSON line, so often
    #[arg(long, value_name = "MS")]
    report_every: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    /// Connect, then reset
    Tcp,
    /// Read the greeting, exchange 8 bytes, reset
    Echo,
    /// Verify the server, GET /readyz, close
    Tls,
}

impl Arguments {
    fn config(self) -> Result<Config> {
        let kind = match self.kind {
            KindName::Tcp => Kind::Tcp,
            KindName::Echo => Kind::Echo,
            KindName::Tls => {
                let ca = self.ca.context("--kind tls needs --ca")?;
                Kind::Tls(TlsKind { ca, server_name: self.server_name, token: self.token })
            }
        };
        let duration = self.duration.map(Duration::try_from_secs_f64).transpose().context("--duration")?;
        Config {
            targets: self.target,
            rate: self.rate,
            duration,
            sources: self.source,
            kind,
            timeout: Duration::from_millis(self.timeout),
            established: self.established,
            established_targets: self.established_target,
            report_every: self.report_every.map(Duration::from_millis),
        }
        .validated()
    }
}

struct Print;

impl Observer for Print {
    fn started(&mut self) {
        println!("started");
    }

    fn progress(&mut self, report: &Report) {
        match serde_json::to_string(report) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("write progress: {error}"),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let config = arguments.config()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let report = load::run(config, stop, &mut Print).await?;
    match json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}
