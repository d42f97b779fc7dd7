//! A translator in front of a kube-apiserver 1.20; see [`integration::sim::slice_proxy`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use integration::sim::slice_proxy::{self, Config};

/// Serves discovery.k8s.io/v1 in front of a kube-apiserver that has v1beta1 only.
#[derive(Parser)]
#[command(name = "slice-proxy")]
struct Arguments {
    /// Name in the access log
    #[arg(long, default_value = "slice-proxy")]
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
    /// The real server
    #[arg(long, value_name = "https://HOST:PORT")]
    upstream: String,
    /// CA of the real server, PEM
    #[arg(long)]
    upstream_ca: PathBuf,
    /// Name in the real server's certificate; the upstream's host when absent
    #[arg(long)]
    upstream_server_name: Option<String>,
    /// Access log, JSON lines
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let bound = slice_proxy::start(Config {
        name: arguments.name,
        listen: arguments.listen,
        cert: arguments.cert,
        key: arguments.key,
        upstream: arguments.upstream,
        upstream_ca: arguments.upstream_ca,
        upstream_server_name: arguments.upstream_server_name,
        access_log: arguments.access_log,
    })
    .await?;
    println!("ready");
    bound.run().await;
    Ok(())
}
