//! The command line of `apivip-audit`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{RunArgs, VERSION};

/// Those of `apivip run`, where the kubelet and the control plane's files are, and how to say what was found.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "apivip-audit",
    version = VERSION,
    about = "Audits every connection path between the control plane and this node for use on an untrusted network; \
             accepts the arguments of apivip run"
)]
pub struct AuditArgs {
    /// What the daemon is run with.
    #[command(flatten)]
    pub run: RunArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = ReportArg::Table)]
    pub output: ReportArg,

    /// Lowest severity of a failure that makes the exit code 3
    #[arg(long, value_enum, default_value_t = FailOnArg::High)]
    pub fail_on: FailOnArg,

    /// Print the description and the remediation of a check, and exit; all lists every check
    #[arg(long, value_name = "ID", exclusive = true)]
    pub explain: Option<String>,

    /// Address of the kubelet on this node
    #[arg(long, env = "APIVIP_KUBELET", value_name = "ADDR:PORT", default_value = "127.0.0.1:10250")]
    pub kubelet: SocketAddr,

    /// Configuration file of the kubelet; defaults to the file in its command line, or to /var/lib/kubelet/config.yaml
    #[arg(long, env = "APIVIP_KUBELET_CONFIG", value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,

    /// Static Pod manifest of kube-apiserver on this node, if it exists
    #[arg(
        long,
        env = "APIVIP_APISERVER_MANIFEST",
        value_name = "FILE",
        default_value = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    )]
    pub apiserver_manifest: PathBuf,

    /// Path of /proc of the host, where the audit reads the command lines of kubelet and kube-apiserver
    #[arg(long, env = "APIVIP_HOST_PROC", value_name = "DIR", default_value = "/proc")]
    pub host_proc: PathBuf,

    /// Name of the Node object of this node; defaults to the host name
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
}

/// Values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportArg {
    /// Readable text
    Table,
    /// Readable text with the question of each check
    Wide,
    /// One JSON document
    Json,
    /// The same document as YAML
    Yaml,
    /// SARIF 2.1.0, for scanners
    Sarif,
}

/// Values of `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOnArg {
    /// Never
    Never,
    /// Failures of high severity
    High,
    /// Failures of medium severity or higher
    Medium,
    /// Any failure
    Low,
    /// Any failure, and any check without a result
    Unknown,
}
