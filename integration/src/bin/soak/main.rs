//! Faults of every kind, one after the other and several at once, chosen at random from a seed, until the time is over.
//! After each the node must settle: every new connection from two Pods and the host reaches a live API server, and the
//! kernel's table is the one that the daemon wants. `scripts/soak` builds and runs it.

mod api;
mod credentials;
mod files;
mod reads;
mod stage;
mod step;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;

use reads::Amount;
use stage::Stage;
use step::Step;

/// Runs a daemon under random faults.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long, in seconds; the current step is finished
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Seed of the choices; a random one unless given
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    amount: Amount,
    /// The reader's side of a soak of reconnects and events
    #[arg(long, hide = true)]
    kubeconfig: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Amount { reconnects, events } = arguments.amount;
    if !arguments.kubeconfig.is_empty() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(reads::read(arguments.amount, &arguments.kubeconfig));
    }
    if reconnects + events > 0 {
        return reads::feed(arguments.amount);
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: `scripts/soak --seed {seed}` repeats this run");
    let mut chance = StdRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let lab = stage::lab()?;
    let mut stage = Stage::start(&lab)?;
    let mut count = 0_u32;
    while Instant::now() < end {
        count += 1;
        let step = Step::choose(&mut chance);
        println!("step {count}: {step}");
        let outcome = step.perform(&mut stage, &mut chance).and_then(|()| stage.settle());
        outcome.with_context(|| format!("seed {seed}, step {count}: {step}\n{}", stage.log()))?;
    }
    stage.finish()?;
    println!("{count} steps, all settled; seed {seed}");
    Ok(())
}
