//! A simulated kube-apiserver; see [`integration::sim::apiserver`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use integration::sim::apiserver::{self, Config};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated kube-apiserver for tests.
#[derive(Parser)]
#[command(name = "sim-apiserver")]
struct Arguments {
    /// Name in greetings, logs and statistics
    #[arg(long)]
    name: String,
    /// Address to serve HTTPS on; repeatable
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// Certificate chain, PEM
    #[arg(long)]
    cert: PathBuf,
    /// Key, PEM
    #[arg(long)]
    key: PathBuf,
    /// CA of good client certificates, PEM
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// Accepted bearer token; repeatable
    #[arg(long)]
    token: Vec<String>,
    /// Unix socket for commands
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Access log, JSON lines
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Plain TCP address that greets and echoes; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    echo: Vec<SocketAddr>,
    /// How long to serve on, unready, after SIGTERM
    #[arg(long, value_name = "MS", default_value_t = 0)]
    shutdown_delay: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shutdown_delay = Duration::from_millis(arguments.shutdown_delay);
    let mut terminate = signal(SignalKind::terminate())?;
    let bound = apiserver::start(Config {
        name: arguments.name,
        listen: arguments.listen,
        cert: arguments.cert,
        key: arguments.key,
        client_ca: arguments.client_ca,
        tokens: arguments.token,
        control: arguments.control,
        access_log: arguments.access_log,
        echo: arguments.echo,
    })
    .await?;
    println!("ready");
    terminate.recv().await;
    bound.shut_down(shutdown_delay).await;
    Ok(())
}
