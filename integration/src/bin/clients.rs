//! Clients that report every connection; see [`integration::sim::clients`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use integration::sim::clients;
use integration::sim::clients::config::{Config, Fresh};
use integration::sim::clients::timeline::{Connection, Kind};
use integration::sim::load::config::TlsKind;
use tokio::signal::unix::{SignalKind, signal};

/// Opens connections of several kinds, prints a line when it has, one for each long-lived connection that ends, and
/// after SIGTERM the history of all of them as one JSON object.
#[derive(Parser)]
#[command(name = "clients")]
struct Arguments {
    /// Where to connect; repeatable, taken in turn
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    target: Vec<SocketAddr>,
    /// CA bundle
    #[arg(long)]
    ca: PathBuf,
    /// Name in the server's certificate
    #[arg(long, default_value = "kubernetes.default.svc")]
    server_name: String,
    /// Bearer token
    #[arg(long)]
    token: Option<String>,
    /// Time between two fresh connections; without it there are none
    #[arg(long, value_name = "MS")]
    fresh_every: Option<u64>,
    /// What a fresh connection does
    #[arg(long, value_enum, default_value = "tls")]
    fresh: FreshName,
    /// The longest that a fresh connection may take
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout: u64,
    /// Idle connections, after one request
    #[arg(long, value_name = "N", default_value_t = 0)]
    idle: usize,
    /// Watches on which nothing happens
    #[arg(long, value_name = "N", default_value_t = 0)]
    watch: usize,
    /// Watches whose client has closed its half
    #[arg(long, value_name = "N", default_value_t = 0)]
    half_closed: usize,
    /// Busy uploads
    #[arg(long, value_name = "N", default_value_t = 0)]
    upload: usize,
    /// Busy downloads
    #[arg(long, value_name = "N", default_value_t = 0)]
    download: usize,
    /// Connections with requests all the time, answered or not
    #[arg(long, value_name = "N", default_value_t = 0)]
    pipelined: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum FreshName {
    /// Connect
    Tcp,
    /// Connect, verify the server, GET /version
    Tls,
}

impl Arguments {
    fn config(self) -> Config {
        Config {
            targets: self.target,
            tls: TlsKind { ca: self.ca, server_name: self.server_name, token: self.token },
            fresh_every: self.fresh_every.map(Duration::from_millis),
            fresh: match self.fresh {
                FreshName::Tcp => Fresh::Tcp,
                FreshName::Tls => Fresh::Tls,
            },
            timeout: Duration::from_millis(self.timeout),
            kept: vec![
                (Kind::Idle, self.idle),
                (Kind::Watch, self.watch),
                (Kind::HalfClosed, self.half_closed),
                (Kind::Upload, self.upload),
                (Kind::Download, self.download),
                (Kind::Pipelined, self.pipelined),
            ],
        }
    }
}

fn started(kept: &[SocketAddr]) {
    match serde_json::to_string(kept) {
        Ok(kept) => println!("started {kept}"),
        Err(error) => eprintln!("write the connections that are kept: {error}"),
    }
}

fn ended(connection: &Connection) {
    match serde_json::to_string(connection) {
        Ok(line) => println!("ended {line}"),
        Err(error) => eprintln!("write the end of a connection: {error}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let config = Arguments::parse().config();
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        terminate.recv().await;
    };
    let timeline = clients::run(config, stop, started, ended).await?;
    println!("{}", serde_json::to_string(&timeline)?);
    Ok(())
}
