//! Injects faults of each kind into a simulated fleet of nodes, and prints how clients' connections ended.
//! `scripts/bench fleet` builds it in release mode and runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use integration::fleet::{Kind, Tally, simulate, table};

#[derive(Parser)]
struct Args {
    /// Nodes of the fleet
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Runs of each kind
    #[arg(long, default_value_t = 3)]
    runs: u64,
    /// The seed of the first run of each kind
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only kinds whose name contains this
    #[arg(long)]
    kind: Option<String>,
    /// Faults of a run
    #[arg(long, default_value_t = 4)]
    faults: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wanted =
        |kind: &Kind| args.kind.as_ref().is_none_or(|part| format!("{kind:?}").contains(part.as_str()));
    let mut rows = Vec::new();
    for kind in Kind::ALL.into_iter().filter(wanted) {
        let mut sum = Tally::default();
        for seed in args.seed..args.seed + args.runs {
            let tally = simulate(kind, seed, args.nodes, args.faults);
            tally.wrong.iter().take(5).for_each(|wrong| eprintln!("{kind:?}, seed {seed}: {wrong}"));
            sum.add(&tally);
        }
        rows.push((kind, sum));
    }
    print!("{}", table(&rows));
    ensure!(rows.iter().all(|(_, tally)| tally.ended_wrongly() == 0), "connections were ended wrongly");
    Ok(())
}
