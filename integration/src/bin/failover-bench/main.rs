//! The figures of a failover in `docs/benchmarks.md`, as clients in a Pod see them, and the picture of them.
//! `scripts/bench failover` and `scripts/bench cost` build everything in release mode and run it.

mod beside;
mod cost;
mod judged;
mod measure;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::pictures;

/// Measures failovers.
#[derive(Parser)]
#[command(name = "failover-bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The table of faults of simulated API servers
    Failover {
        /// Foreign entries in the node's conntrack table
        #[arg(long, value_name = "N", default_value_t = 0)]
        foreign: u32,
    },
    /// The table of faults of real API servers, beside kube-proxy, and the picture of it
    Beside {
        /// Folder of the documents, which gets the figures and the picture
        #[arg(long, value_name = "DIR")]
        docs: PathBuf,
    },
    /// Processor time of an idle daemon, and of a real API server for the probes of its nodes
    Cost(cost::Cost),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Failover { foreign } => {
            let measured = measure::FAULTS.iter().map(|case| measure::measure(case, foreign));
            measure::print(&measured.collect::<Result<Vec<_>>>()?);
            Ok(())
        }
        What::Beside { docs } => pictures::save(&docs, "failover", &beside::measure()?),
        What::Cost(cost) => cost.print(),
    }
}
