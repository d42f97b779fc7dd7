//! Arguments of `apivip check`.

use clap::Args;

use super::{OutputArg, RunArgs};

/// Those of `apivip run`, so that the one word can stand in place of the other, and how to say what was found.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// What the daemon is, or would be, run with.
    #[command(flatten)]
    pub run: RunArgs,

    /// How to print what was found
    #[arg(short, long, value_enum, default_value_t = OutputArg::Table)]
    pub output: OutputArg,

    /// Let a warning count as a failure
    #[arg(long)]
    pub strict: bool,
}
