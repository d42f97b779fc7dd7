//! `--table-owner`.

use clap::ValueEnum;

/// Values of `--table-owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableOwnerArg {
    /// The daemon, where the kernel has owners that a table outlives (6.9)
    Auto,
    /// Nobody
    Off,
}
