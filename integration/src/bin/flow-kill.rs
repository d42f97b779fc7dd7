//! Runs orders to end the flows of backends in the current network namespace, all at once, and prints each report as
//! a line of JSON.

use std::net::SocketAddr;
use std::time::Duration;

use apivip::dataplane::flows::{FlowKiller, FlowOptions, FlowOrder, Flows, Purpose};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// A dead backend; repeatable
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    backend: Vec<SocketAddr>,
    /// A virtual IP that leads to them; repeatable
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    vip: Vec<SocketAddr>,
    /// Ask clients, and end no flow
    #[arg(long)]
    ask: bool,
    /// Only have connections that are being opened go elsewhere
    #[arg(long, conflicts_with = "ask")]
    move_only: bool,
    /// Answer clients with resets of our own
    #[arg(long)]
    own_reset: bool,
    /// Flows nudged per second
    #[arg(long, default_value_t = FlowOptions::default().rate)]
    rate: u32,
    /// Milliseconds to go on for
    #[arg(long, default_value_t = 15_000)]
    bound_ms: u64,
    /// Cancel the orders after so many milliseconds
    #[arg(long)]
    cancel_after_ms: Option<u64>,
}

impl Arguments {
    fn purpose(&self) -> Purpose {
        match (self.move_only, self.ask) {
            (true, _) => Purpose::Move,
            (_, true) => Purpose::Ask,
            _ => Purpose::End { own_reset: self.own_reset },
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
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
