//! Measures what unplugged API servers do to the leases of a real node and of controllers that reach the API through the virtual
//! IP: with apivip, and with kube-proxy. Prints a table for docs/benchmarks.md, and writes the figures and the picture of the
//! first round.
//! `scripts/bench leases` runs it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use integration::pictures;
use integration::real::node::arm::Arm;
use integration::real::node::cluster;
use integration::real::node::kube_proxy::Mode;
use integration::real::node::leases::{Leases, Outage};

/// What to measure.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds for which each of the three API servers is unplugged, in turn
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// How often each of them is unplugged
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Folder of the documents, which gets the figures and the picture
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!(
        "| the virtual IP is served by | unplugged | connections to it | oldest lease of the node | node stays Ready | leases lost |"
    );
    println!("|---|---|---|---|---|---|");
    let mut first = Vec::new();
    for arm in [Arm::Apivip, Arm::KubeProxy(Mode::Nftables)] {
        let lab = cluster::lab(3)?;
        let mut leases = Leases::start(&lab, arm)?;
        for round in 0..args.rounds {
            for i in 1..=3 {
                let outage = leases.unplug(i, Duration::from_secs(args.seconds))?;
                println!("| {arm} | API server {i} | {outage} |");
                if round == 0 {
                    first.push(drawn(arm, i, &outage));
                }
            }
        }
    }
    match args.docs {
        Some(docs) => {
            let figures = pictures::leases::Leases { unplugged_seconds: args.seconds as f64, outages: first };
            pictures::save(&docs, "leases", &figures)
        }
        None => Ok(()),
    }
}

/// What the picture shows of it, in seconds with two digits.
fn drawn(arm: Arm, i: u8, outage: &Outage) -> pictures::leases::Outage {
    let seconds = |time: Duration| (time.as_secs_f64() * 100.0).round() / 100.0;
    pictures::leases::Outage {
        served_by: arm.to_string(),
        api_server: i.into(),
        ages: outage.ages.iter().map(|(at, age)| (seconds(*at), seconds(*age))).collect(),
        lost: outage.lost.iter().map(|(name, at)| ((*name).to_owned(), at.as_secs_f64().floor())).collect(),
    }
}
