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

    /// How to print what was found
    #[arg(short, long, value_enum, default_value_t = ReportArg::Table)]
    pub output: ReportArg,

    /// From which severity on a failure makes the exit code 3
    #[arg(long, value_enum, default_value_t = FailOnArg::High)]
    pub fail_on: FailOnArg,

    /// Print what a check is about and what to set, and do nothing else; all lists every check
    #[arg(long, value_name = "ID", exclusive = true)]
    pub explain: Option<String>,

    /// Where this node's kubelet listens
    #[arg(long, env = "APIVIP_KUBELET", value_name = "ADDR:PORT", default_value = "127.0.0.1:10250")]
    pub kubelet: SocketAddr,

    /// The kubelet's configuration, if it is not where its command line says; without one it is
    /// /var/lib/kubelet/config.yaml
    #[arg(long, env = "APIVIP_KUBELET_CONFIG", value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,

    /// The static Pod of this node's kube-apiserver, if there is one
    #[arg(
        long,
        env = "APIVIP_APISERVER_MANIFEST",
        value_name = "FILE",
        default_value = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    )]
    pub apiserver_manifest: PathBuf,

    /// Where the host's /proc is; its processes' command lines tell what kubelet and kube-apiserver are run with
    #[arg(long, env = "APIVIP_HOST_PROC", value_name = "DIR", default_value = "/proc")]
    pub host_proc: PathBuf,

    /// The name of this node's Node object, if it is not the host's name
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
}

/// Values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportArg {
    /// What matters, for people
    Table,
    /// What each check asks as well
    Wide,
    /// One JSON document
    Json,
    /// The same as YAML
    Yaml,
    /// SARIF 2.1.0, for scanners
    Sarif,
}

/// Values of `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOnArg {
    /// Never
    Never,
    /// A failure of high severity
    High,
    /// One of medium severity or more
    Medium,
    /// Any failure
    Low,
    /// Any failure, and anything that could not be known
    Unknown,
}
