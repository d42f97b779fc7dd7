//! The figures of the forwarder in `docs/benchmarks.md`, beside Debian's haproxy and nginx, and the picture of them.
//! `scripts/bench forwarder` builds everything in release mode, unpacks the proxies and runs it.

mod arms;
mod drive;
mod measure;
mod process;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::pictures;

/// Measures the forwarder.
#[derive(Parser)]
#[command(name = "forwarder-bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure in a lab, print the table and draw the picture
    Run {
        /// Folder of the documents, which gets the figures and the picture
        #[arg(long, value_name = "DIR")]
        docs: PathBuf,
        /// Say in the picture that all processes share one core; the caller sees to it
        #[arg(long)]
        one_core: bool,
        /// Folder into which the packages of the other proxies are unpacked
        #[arg(long, value_name = "DIR")]
        proxies: PathBuf,
        /// Proxies to measure; repeatable; all when absent
        #[arg(long = "proxy", value_enum)]
        chosen: Vec<arms::Proxy>,
        /// How often everything is measured; medians are printed
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each measurement of a rate
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Mebibytes of each transfer
        #[arg(long, default_value_t = 4096)]
        mebibytes: u64,
    },
    /// Carry every stream of the forwarder's scenarios through the other proxies
    Streams {
        /// Folder into which their packages are unpacked
        #[arg(long, value_name = "DIR")]
        proxies: PathBuf,
    },
    /// The client's side of one measurement, in a namespace
    #[command(hide = true)]
    Drive {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        source: Vec<IpAddr>,
        #[arg(long)]
        work: drive::Work,
        /// Bytes of a transfer, milliseconds of a rate
        #[arg(long)]
        amount: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Run { docs, one_core, proxies, chosen, rounds, seconds, mebibytes } => {
            let chosen = if chosen.is_empty() { arms::Proxy::ALL.to_vec() } else { chosen };
            let plan = measure::Plan {
                proxies: chosen,
                rounds,
                rate: Duration::from_secs(seconds),
                bytes: mebibytes << 20,
            };
            let (name, setting) = match one_core {
                true => ("forwarder-one-core", "all on one core".to_owned()),
                false => ("forwarder", format!("on {} cores", std::thread::available_parallelism()?)),
            };
            let figures = table::comparison(&measure::all(&plan, &proxies)?, setting);
            table::print(&figures);
            pictures::save(&docs, name, &figures)
        }
        What::Streams { proxies } => measure::streams(&proxies),
        What::Drive { target, source, work, amount } => drive::run(target, &source, work, amount),
    }
}
