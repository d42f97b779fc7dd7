//! Arguments and environment (`APIVIP_*`) -> validated configuration, before anything is opened or bound.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::address::Cidr;
use crate::model::balance::Balance;
use crate::model::desired::{Masquerade, Policy};
use crate::model::snapshot::SnapshotOptions;
use crate::model::types::ServiceKey;

#[cfg(feature = "audit")]
mod audit;
mod bootstrap;
mod daemon;
mod manifest;

#[cfg(feature = "audit")]
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
#[command(name = "apivip", version = VERSION, about = "Routes the virtual IP of the Kubernetes API on a node to healthy API servers")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon on this node
    Run(Box<RunArgs>),
    /// Verify the node and the credentials before or after you install; accepts the arguments of run
    Check(Box<CheckArgs>),
    /// Print the state of the daemon on this node
    Status(StatusArgs),
    /// Print the nftables rules for objects in files, as a script for `nft -f`; needs neither privileges nor a cluster
    Render(RenderArgs),
    /// Print a manifest or a unit that installs apivip, with your image and arguments; takes the arguments of run, and needs no
    /// privileges and no cluster
    Manifest(Box<ManifestArgs>),
    /// Remove everything that apivip created on this node
    Cleanup(CleanupArgs),
}

/// What decides about the contents of the table.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Service whose virtual IPs apivip serves, as NAMESPACE/NAME
    #[arg(long, env = "APIVIP_SERVICE", value_name = "NAMESPACE/NAME", default_value_t)]
    pub service: ServiceKey,

    /// When to replace the source address of a connection with an address of the node
    #[arg(long, env = "APIVIP_MASQUERADE", value_enum, default_value_t = MasqueradeArg::Auto)]
    pub masquerade: MasqueradeArg,

    /// Range of Pod addresses; connections of clients outside all given ranges of their IP family are masqueraded. Repeatable
    #[arg(long, env = "APIVIP_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,

    /// Which usable API servers share new connections
    #[arg(long, env = "APIVIP_BALANCE", value_enum, default_value_t = BalanceArg::Random)]
    pub balance: BalanceArg,

    /// Accept loopback addresses as endpoints; they serve traffic of this node only
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
    /// Only where replies would not return otherwise
    Auto,
    /// Every connection to the virtual IP
    Always,
    /// No connection
    Never,
}

/// Values of `--balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BalanceArg {
    /// All, selected at random
    Random,
    /// Only the API server on this node while it is usable, otherwise all
    LocalFirst,
    /// The API servers with the shortest round trips
    Nearest,
}

/// Arguments of `apivip check`: those of `apivip run`, so that the one word can stand in place of the other, and how to say what was found.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// What the daemon is, or would be, run with.
    #[command(flatten)]
    pub run: RunArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = OutputArg::Table)]
    pub output: OutputArg,

    /// Count warnings as failures
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `apivip status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Value of --run-dir of the daemon
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputArg::Table, conflicts_with = "metrics")]
    pub output: OutputArg,

    /// Refresh the output every second until you interrupt it
    #[arg(long, short, conflicts_with = "metrics")]
    pub watch: bool,

    /// Print the metrics in the OpenMetrics text format
    #[arg(long)]
    pub metrics: bool,
}

/// Values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// Readable text
    Table,
    /// Readable text with all details
    Wide,
    /// One JSON document
    Json,
    /// The same document as YAML
    Yaml,
}

/// Arguments of `apivip render`.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// Files with Service, EndpointSlice or List objects in YAML or JSON; - reads stdin
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub from: Vec<PathBuf>,

    /// What the table holds.
    #[command(flatten)]
    pub table: TableArgs,

    /// Source address that the routes of this node select for a backend; the daemon queries the kernel for it. Repeatable
    #[arg(long, value_name = "BACKEND=ADDRESS", value_parser = preferred_source)]
    pub source_address: Vec<(IpAddr, IpAddr)>,

    /// Failed API server, as ADDRESS:PORT. Repeatable
    #[arg(long, value_name = "BACKEND")]
    pub failed_backend: Vec<SocketAddr>,

    /// Render the rules for a node where the forwarder still carries connections from a time without nftables
    #[arg(long)]
    pub forwarder_active: bool,
}

/// Arguments of `apivip cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// Value of --run-dir of the daemon
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Value of --state-dir of the daemon
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
