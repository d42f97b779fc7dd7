//! Both ends of long streams of known bytes; see [`integration::sim::streams`] and [`integration::streams`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::process::raise_descriptors;
use integration::sim::listen;
use integration::sim::streams::client::{self, Route};
use integration::sim::streams::idle;
use integration::sim::streams::record::{Pace, Record};
use integration::sim::streams::server;
use integration::streams::Kind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

#[derive(Parser)]
#[command(name = "streams")]
struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Subcommand)]
enum Side {
    /// Obey clients, and print the record of each connection as a line of JSON
    Serve {
        /// Address to listen on; repeatable
        #[arg(long, value_name = "ADDR:PORT", required = true)]
        listen: Vec<SocketAddr>,
    },
    /// One connection; fails unless both sides agree on what was carried
    Run(RunArguments),
    /// Hold connections until SIGTERM, then see which still work
    Idle {
        /// Address to dial; repeatable, taken in turn
        #[arg(long, value_name = "ADDR:PORT", required = true)]
        target: Vec<SocketAddr>,
        /// Client address; repeatable, taken in turn
        #[arg(long, value_name = "ADDR")]
        source: Vec<IpAddr>,
        /// How many connections
        #[arg(long)]
        count: usize,
        /// Say nothing at all until the end
        #[arg(long)]
        silent: bool,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Address to dial
    #[arg(long, value_name = "ADDR:PORT")]
    target: SocketAddr,
    /// Client address
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// What happens
    #[arg(long, value_parser = kind)]
    kind: Kind,
    /// Number of the connection
    #[arg(long)]
    id: u64,
    /// How many bytes
    #[arg(long)]
    bytes: u64,
    /// The reading side reads nothing for so long
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    wait: Duration,
    /// The client rests so long after each read or write
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    client_pause: Duration,
    /// The server rests so long after each read or write
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    server_pause: Duration,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| "no such kind".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    raise_descriptors()?;
    match Arguments::parse().side {
        Side::Serve { listen } => serve(&listen).await,
        Side::Run(arguments) => run(arguments).await,
        Side::Idle { target, source, count, silent } => {
            let mut term = signal(SignalKind::terminate())?;
            let held = idle::open(&target, &source, count, silent).await?;
            println!("ready");
            term.recv().await;
            println!("{}", serde_json::to_string(&held.examine().await)?);
            Ok(())
        }
    }
}

async fn serve(addresses: &[SocketAddr]) -> Result<()> {
    let ended: Arc<dyn Fn(&Record) + Send + Sync> = Arc::new(|record| match serde_json::to_string(record) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("write a record: {error}"),
    });
    let mut tasks = JoinSet::new();
    for address in addresses {
        tasks.spawn(server::serve(listen::bind(*address)?, ended.clone()));
    }
    println!("ready");
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn run(a: RunArguments) -> Result<()> {
    let route = Route { target: a.target, source: a.source };
    let pace = Pace::with_pause(a.client_pause);
    let record = match a.kind {
        Kind::Upload => client::upload(route, a.id, a.bytes, pace, a.wait, a.server_pause).await,
        Kind::Download => client::download(route, a.id, a.bytes, pace, a.wait, a.server_pause).await,
        Kind::Echo => client::echo(route, a.id, a.bytes).await,
        Kind::HalfClosed => client::half_closed(route, a.id, a.bytes).await,
        Kind::ServerResets => client::reset_by_server(route, a.id, a.bytes).await,
        Kind::ClientResets => client::reset_by_client(route, a.id, a.bytes).await,
    };
    println!("{}", serde_json::to_string(&record?)?);
    Ok(())
}
