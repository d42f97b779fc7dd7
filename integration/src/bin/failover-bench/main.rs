//! The figures of a failover in `docs/benchmarks.md`, judged by clients in a pod, and the picture of them.
//! `scripts/bench failover` and `scripts/bench cost` build everything in release mode and run it.

mod beside;
mod cost;
mod judged;
mod measure;
mod picture;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Measures failovers.
#[derive(Parser)]
#[command(name = "failover-bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The table of faults of simulated apiservers
    Failover {
        /// Foreign entries in the node's conntrack table
        #[arg(long, value_name = "N", default_value_t = 0)]
        foreign: u32,
    },
    /// The table of faults of real apiservers, beside kube-proxy, and the timeline as a picture
    Beside {
        /// Where the picture goes
        #[arg(long, value_name = "FILE")]
        svg: PathBuf,
    },
    /// Processor time of an idle daemon, and of a real apiserver for the probes of its nodes
    Cost(cost::Cost),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Failover { foreign } => {
            let measured = measure::FAULTS.iter().map(|case| measure::measure(case, foreign));
            measure::print(&measured.collect::<Result<Vec<_>>>()?);
            Ok(())
        }
        What::Beside { svg } => {
            let drawn = picture::draw(&beside::measure()?);
            std::fs::write(&svg, drawn).with_context(|| format!("write {}", svg.display()))
        }
        What::Cost(cost) => cost.print(),
    }
}
