//! Measures what unplugged apiservers do to the leases of a real node and of controllers that reach the API through the virtual
//! IP: with apivip, and with kube-proxy. Prints a table for docs/benchmarks.md, and draws a picture of the first round.
//! `scripts/bench leases` runs it.

mod picture;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use integration::real::node::arm::Arm;
use integration::real::node::cluster;
use integration::real::node::kube_proxy::Mode;
use integration::real::node::leases::Leases;

/// What to measure.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds that each of the three apiservers is unplugged for, in turn.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// How often each of them is.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!(
        "| the virtual IP is served by | unplugged | connections to it | oldest lease of the node | node stays ready | leases lost |"
    );
    println!("|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for arm in [Arm::Apivip, Arm::KubeProxy(Mode::Nftables)] {
        let lab = cluster::lab(3)?;
        let mut leases = Leases::start(&lab, arm)?;
        let mut outages = Vec::new();
        for _ in 0..args.rounds {
            for i in 1..=3 {
                let outage = leases.unplug(i, Duration::from_secs(args.seconds))?;
                println!("| {arm} | apiserver {i}, {} s | {outage} |", args.seconds);
                outages.push(outage);
            }
        }
        rows.push((arm, outages));
    }
    if let Some(svg) = args.svg {
        let drawn = picture::draw(&rows, Duration::from_secs(args.seconds));
        std::fs::write(&svg, drawn).with_context(|| format!("write {}", svg.display()))?;
    }
    Ok(())
}
