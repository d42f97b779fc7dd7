//! Arguments and environment (`APIVIP_*`) -> validated configuration, before anything is opened or bound.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::address::Cidr;
use crate::model::balance::Balance;
use crate::model::desired::{Masquerade, Policy};
use crate::model::snapshot::SnapshotOptions;
use crate::model::types::ServiceKey;

mod audit;
mod bootstrap;
mod daemon;
mod manifest;

pub use audit::{AuditArgs, FailOnArg, ReportArg};
pub use bootstrap::{BootstrapArgs, BootstrapError, DEFAULT_STATE_DIR};
pub use daemon::{AdminArgs, HealthArgs, LogFormat, ModeArg, OrOff, ProxyArgs, RunArgs, TableOwnerArg};
pub use manifest::{FormArg, GivenFlag, ManifestArgs, given_flags};

/// Version and commit, as `apivip --version` prints them.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("APIVIP_COMMIT"), ")");

/// Where lock and socket live unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/apivip";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "apivip", version = VERSION, about = "Keeps the Kubernetes API's virtual IP of a node pointing at live apiservers")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon of this node
    Run(Box<RunArgs>),
    /// Look at this node and at the API, before or after installing, and say what stands in the way; takes the arguments of run
    Check(Box<CheckArgs>),
    /// Look at every path between this cluster's control plane and this node, and say which is not safe on an untrusted
    /// network; takes the arguments of run
    Audit(Box<AuditArgs>),
    /// Print what the daemon of this node does and why
    Status(StatusArgs),
    /// Print the table for objects in files, as a script for `nft -f`; needs no privileges and no cluster
    Render(RenderArgs),
    /// Print a manifest or a unit that installs apivip, with your image and arguments; takes the arguments of run, and needs no
    /// privileges and no cluster
    Manifest(Box<ManifestArgs>),
    /// Remove everything that apivip made on this node
    Cleanup(CleanupArgs),
}

/// What decides about the contents of the table.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// The Service whose virtual IPs are served, as NAMESPACE/NAME
    #[arg(long, env = "APIVIP_SERVICE", value_name = "NAMESPACE/NAME", default_value_t)]
    pub service: ServiceKey,

    /// When to replace the source address of a flow by the node's
    #[arg(long, env = "APIVIP_MASQUERADE", value_enum, default_value_t = MasqueradeArg::Auto)]
    pub masquerade: MasqueradeArg,

    /// Range of pod addresses; clients outside all given ranges of their family are masqueraded. Repeatable
    #[arg(long, env = "APIVIP_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,

    /// Which of the apiservers that are up share new connections
    #[arg(long, env = "APIVIP_BALANCE", value_enum, default_value_t = BalanceArg::Random)]
    pub balance: BalanceArg,

    /// Accept loopback addresses as endpoints; they only ever serve the node's own traffic
    #[arg(long, env = "APIVIP_ALLOW_LOOPBACK_ENDPOINTS")]
    pub allow_loopback_endpoints: bool,
}

impl TableArgs {
    /// What the operator wants of the table.
    pub fn policy(&self) -> Policy {
        Policy {
            service: self.service.clone(),
            masquerade: match self.masquerade {
                MasqueradeArg::Auto => Masquerade::Auto,
                MasqueradeArg::Always => Masquerade::Always,
                MasqueradeArg::Never => Masquerade::Never,
            },
            cluster_cidrs: self.cluster_cidr.clone(),
            balance: match self.balance {
                BalanceArg::Random => Balance::Random,
                BalanceArg::LocalFirst => Balance::LocalFirst,
                BalanceArg::Nearest => Balance::Nearest,
            },
        }
    }

    /// How strictly endpoints are judged.
    pub fn snapshot_options(&self) -> SnapshotOptions {
        SnapshotOptions { allow_loopback: self.allow_loopback_endpoints }
    }
}

/// Values of `--masquerade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MasqueradeArg {
    /// Where replies would not come back otherwise
    Auto,
    /// Every flow to the virtual IP
    Always,
    /// No flow
    Never,
}

/// Values of `--balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BalanceArg {
    /// All, at random
    Random,
    /// This node's own apiserver alone while it is up, else all
    LocalFirst,
    /// Those with the shortest round trips
    Nearest,
}

/// Arguments of `apivip check`: those of `apivip run`, so that the one word can stand in place of the other, and how to say what was found.
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

/// Arguments of `apivip status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The daemon's --run-dir
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// How to print it
    #[arg(long, short, value_enum, default_value_t = OutputArg::Table, conflicts_with = "metrics")]
    pub output: OutputArg,

    /// Print it again each second, in place on a terminal, until interrupted
    #[arg(long, short, conflicts_with = "metrics")]
    pub watch: bool,

    /// Print the metrics in the OpenMetrics text format
    #[arg(long)]
    pub metrics: bool,
}

/// Values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// What matters, for people
    Table,
    /// All, for people
    Wide,
    /// One JSON document
    Json,
    /// The same as YAML
    Yaml,
}

/// Arguments of `apivip render`.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// Files with Service, EndpointSlice or List objects in YAML or JSON; - is stdin
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub from: Vec<PathBuf>,

    /// What the table holds.
    #[command(flatten)]
    pub table: TableArgs,

    /// The source address that this node's routes give to a backend, which the daemon asks the kernel for. Repeatable
    #[arg(long, value_name = "BACKEND=ADDRESS", value_parser = preferred_source)]
    pub source_address: Vec<(IpAddr, IpAddr)>,

    /// An apiserver, as ADDRESS:PORT, that does not answer while others do. Repeatable
    #[arg(long, value_name = "BACKEND")]
    pub dead: Vec<SocketAddr>,

    /// The forwarder still has connections to the virtual IPs, from a time when nftables could not be used
    #[arg(long)]
    pub forwarding: bool,
}

/// Arguments of `apivip cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// The daemon's --run-dir
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// The daemon's --state-dir
    #[arg(long, env = "APIVIP_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

fn preferred_source(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let expected = || "expected BACKEND=ADDRESS, two addresses of one family".to_owned();
    let (backend, source) = text.split_once('=').ok_or_else(expected)?;
    let backend: IpAddr = backend.parse().map_err(|_| expected())?;
    let source: IpAddr = source.parse().map_err(|_| expected())?;
    if backend.is_ipv4() != source.is_ipv4() {
        return Err(expected());
    }
    Ok((backend, source))
}
