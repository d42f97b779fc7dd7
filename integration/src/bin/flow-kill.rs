//! Runs orders about the flows of backends in the current network namespace, all at once, and prints each report as a line
//! of JSON. `ask-backend` asks one on its clients' path, and prints what was heard of it.

use std::net::SocketAddr;
use std::time::Duration;

use apivip::conntrack::capture::Observation;
use apivip::conntrack::{ChallengeOutcome, FlowOptions, Flows};
use apivip::dataplane::flows::{FlowKiller, FlowOrder, Purpose};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A failed backend; repeatable
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    backend: Vec<SocketAddr>,
    /// A virtual IP that is redirected to them; repeatable
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    vip: Vec<SocketAddr>,
    /// Send challenge SYNs to clients, and end no flow
    #[arg(long)]
    ask: bool,
    /// Only move connections that are being opened
    #[arg(long, conflicts_with = "ask")]
    move_only: bool,
    /// Answer clients with resets of our own
    #[arg(long)]
    own_reset: bool,
    /// Challenge SYNs per second
    #[arg(long, default_value_t = FlowOptions::default().rate)]
    rate: u32,
    /// Milliseconds to go on for
    #[arg(long, default_value_t = 15_000)]
    bound_ms: u64,
    /// Cancel the orders after so many milliseconds
    #[arg(long)]
    cancel_after_ms: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a backend on its clients' path
    AskBackend {
        /// The backend
        #[arg(long, value_name = "ADDR:PORT")]
        backend: SocketAddr,
        /// A virtual IP that is redirected to it; repeatable
        #[arg(long, value_name = "ADDR:PORT")]
        vip: Vec<SocketAddr>,
        /// Milliseconds to listen for, before and after the question
        #[arg(long, default_value_t = 500)]
        listen_ms: u64,
    },
}

impl Arguments {
    fn purpose(&self) -> Purpose {
        match (self.move_only, self.ask) {
            (true, _) => Purpose::Reroute,
            (_, true) => Purpose::Challenge,
            _ => Purpose::Reset { own_reset: self.own_reset },
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::AskBackend { backend, vip, listen_ms }) = arguments.command {
        return ask_backend(backend, vip, Duration::from_millis(listen_ms)).await;
    }
    let bound = Duration::from_millis(arguments.bound_ms);
    let mut flows = Flows::open(FlowOptions { rate: arguments.rate, bound })?;
    for backend in arguments.backend.iter().copied() {
        flows.start(FlowOrder { backend, vips: arguments.vip.clone(), purpose: arguments.purpose() });
    }
    if let Some(after) = arguments.cancel_after_ms {
        tokio::time::sleep(Duration::from_millis(after)).await;
        arguments.backend.iter().for_each(|backend| flows.cancel(*backend));
    }
    for _ in &arguments.backend {
        println!("{}", serde_json::to_string(&flows.finished().await)?);
    }
    Ok(())
}

async fn ask_backend(backend: SocketAddr, vips: Vec<SocketAddr>, listen: Duration) -> anyhow::Result<()> {
    let asker = Flows::open(FlowOptions::default())?.path_challenger();
    let mut observation = Observation::open(backend)?;
    let before = heard(&mut observation, listen).await;
    let (asked, flows) = match asker.challenge(backend, vips).await {
        ChallengeOutcome::NoFlows => ("no-flows", 0),
        ChallengeOutcome::Impossible => ("impossible", 0),
        ChallengeOutcome::Sent { flows, .. } => ("sent", flows),
    };
    let heard = heard(&mut observation, listen).await;
    println!("{}", json!({ "before": before, "asked": asked, "flows": flows, "heard": heard }));
    Ok(())
}

async fn heard(observation: &mut Observation, listen: Duration) -> Vec<Value> {
    let until = Instant::now() + listen;
    let mut all = Vec::new();
    while let Ok(heard) = timeout_at(until, observation.next_segment()).await {
        all.push(json!({ "to": heard.to, "data": heard.data }));
    }
    all
}
