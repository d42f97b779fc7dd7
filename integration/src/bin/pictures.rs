//! Draws the pictures of the documents again, from the figures in `docs/data`. It measures nothing.
//! `scripts/bench pictures` builds and runs it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Draws the pictures of the documents again.
#[derive(Parser)]
#[command(name = "pictures")]
struct Arguments {
    /// Folder of the documents
    #[arg(long, value_name = "DIR", default_value = "docs")]
    docs: PathBuf,
}

fn main() -> Result<()> {
    integration::pictures::draw_all(&Arguments::parse().docs)
}
