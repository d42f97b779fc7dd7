//! Measures what unplugged apiservers do to the leases of a real node and of controllers that reach the API through the virtual
//! IP: with apivip, and with kube-proxy. Prints a table for docs/benchmarks.md. `scripts/bench leases` runs it.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use integration::real::node::cluster;
use integration::real::node::leases::{Arm, Leases};

/// What to measure.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds that each of the three apiservers is unplugged for, in turn.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// How often each of them is.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!(
        "| the virtual IP is served by | unplugged | connections to it | oldest lease of the node | node stays ready | leases lost |"
    );
    println!("|---|---|---|---|---|---|");
    for arm in [Arm::Apivip, Arm::KubeProxy] {
        let lab = cluster::lab(3)?;
        let mut leases = Leases::start(&lab, arm)?;
        for _ in 0..args.rounds {
            for i in 1..=3 {
                let outage = leases.unplug(i, Duration::from_secs(args.seconds))?;
                println!("| {arm} | apiserver {i}, {} s | {outage} |", args.seconds);
            }
        }
    }
    Ok(())
}
