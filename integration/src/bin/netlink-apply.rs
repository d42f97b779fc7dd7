//! Programs the table for objects in files through the daemon's netlink encoding, in the current network namespace.
//! Takes the arguments of `apivip render`.

use apivip::cli::render::desired;
use apivip::config::RenderArgs;
use apivip::nftables::{build, socket::NftSocket};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    render: RenderArgs,
}

fn main() -> anyhow::Result<()> {
    let (state, _) = desired(&Arguments::parse().render)?;
    let committed = NftSocket::open()?.replace(&build::table(&state))?;
    println!("{} messages, {} bytes", committed.steps, committed.bytes);
    Ok(())
}
