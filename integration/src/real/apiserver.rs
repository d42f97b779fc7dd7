//! One kube-apiserver process. In: its number, its files and options. Out: flags as kubeadm gives them, as far as they matter
//! here, and its life: start, stop, kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ADMIN_TOKEN, APIVIP_TOKEN, EndpointsBy, RealOptions, SHUTDOWN_DELAY};
use crate::lab::{Families, Lab};
use crate::pki::{self, Authority, KeyFiles, Validity};
use crate::process::{Signal, Spawned};

/// The port that apiservers listen on and publish.
pub const PORT: u16 = 6443;

/// Longest that an apiserver may take to end after SIGTERM. It usually takes a second, and a minute or more while requests are
/// under way.
const STOP_LIMIT: Duration = Duration::from_secs(150);

/// Only finished requests, without the watch of each client being logged twice.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
     rules:\n- level: Metadata\n";

/// Files that all apiservers of a lab read.
pub(super) struct SharedFiles {
    authority: PathBuf,
    kubelet_client: KeyFiles,
    token_signing_key: PathBuf,
    token_verifying_key: PathBuf,
    tokens: PathBuf,
    audit_policy: PathBuf,
}

impl SharedFiles {
    pub(super) fn write(folder: &Path, authority: &Authority) -> Result<Self> {
        let (token_signing_key, token_verifying_key) = pki::service_account_keys(folder, "service-account")?;
        let name = "apiserver-kubelet-client";
        let files = Self {
            authority: authority.certificate().to_owned(),
            kubelet_client: authority.client(name, name, &["system:masters"], Validity::Now)?,
            token_signing_key,
            token_verifying_key,
            tokens: folder.join("tokens.csv"),
            audit_policy: folder.join("audit-policy.yaml"),
        };
        let tokens = format!("{ADMIN_TOKEN},admin,1,system:masters\n{APIVIP_TOKEN},apivip,2\n");
        fs::write(&files.tokens, tokens).context("write the tokens")?;
        fs::write(&files.audit_policy, AUDIT_POLICY).context("write the audit policy")?;
        Ok(files)
    }

    pub(super) fn token_signing_key(&self) -> &Path {
        &self.token_signing_key
    }
}

/// The flags of a cluster whose apiservers are restarted behind load balancers.
fn draining() -> Vec<(&'static str, String)> {
    vec![
        ("shutdown-delay-duration", format!("{}s", SHUTDOWN_DELAY.as_secs())),
        ("shutdown-send-retry-after", "true".to_owned()),
        ("shutdown-watch-termination-grace-period", "5s".to_owned()),
    ]
}

/// One apiserver, running or not.
#[derive(Debug)]
pub(super) struct Apiserver<'lab> {
    lab: &'lab Lab,
    number: u8,
    arguments: Vec<String>,
    audit_log: PathBuf,
    process: Option<Spawned>,
}

impl<'lab> Apiserver<'lab> {
    pub(super) fn new(
        lab: &'lab Lab,
        number: u8,
        authority: &Authority,
        files: &SharedFiles,
        etcd: &str,
        options: RealOptions,
    ) -> Result<Self> {
        let certificate = certificate(lab, number, authority)?;
        let audit_log = lab.dir().join(format!("audit-{number}.log"));
        let mut made = Self { lab, number, arguments: Vec::new(), audit_log, process: None };
        made.arguments = made.flags(files, &certificate, etcd, options);
        Ok(made)
    }

    /// Replaces its certificate and key by those of another authority, which keeps its files in the lab's folder.
    pub(super) fn certify(&self, authority: &Authority) -> Result<()> {
        certificate(self.lab, self.number, authority).map(drop)
    }

    fn flags(
        &self,
        files: &SharedFiles,
        certificate: &KeyFiles,
        etcd: &str,
        options: RealOptions,
    ) -> Vec<String> {
        let families = self.lab.options().families;
        let bind = match families {
            Families::V4 => "0.0.0.0",
            Families::V6 | Families::Dual => "::",
        };
        let ranges = match families {
            Families::V4 => "10.96.0.0/16",
            Families::V6 => "fd00:10:96::/112",
            Families::Dual => "10.96.0.0/16,fd00:10:96::/112",
        };
        let reconciler = match options.endpoints {
            EndpointsBy::Apiservers => "lease",
            EndpointsBy::Test => "none",
        };
        let address = self.lab.apiserver_addresses(self.number)[0];
        let path = |path: &Path| path.display().to_string();
        [
            ("advertise-address", address.to_string()),
            ("allow-privileged", "true".to_owned()),
            ("audit-log-path", path(&self.audit_log)),
            ("audit-policy-file", path(&files.audit_policy)),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("bind-address", bind.to_owned()),
            ("client-ca-file", path(&files.authority)),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            ("enable-bootstrap-token-auth", "true".to_owned()),
            ("endpoint-reconciler-type", reconciler.to_owned()),
            ("etcd-servers", etcd.to_owned()),
            ("kubelet-client-certificate", path(&files.kubelet_client.certificate)),
            ("kubelet-client-key", path(&files.kubelet_client.key)),
            ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".to_owned()),
            ("profiling", "false".to_owned()),
            ("secure-port", PORT.to_string()),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
            ("service-account-key-file", path(&files.token_verifying_key)),
            ("service-account-signing-key-file", path(&files.token_signing_key)),
            ("service-cluster-ip-range", ranges.to_owned()),
            ("tls-cert-file", path(&certificate.certificate)),
            ("tls-private-key-file", path(&certificate.key)),
            ("token-auth-file", path(&files.tokens)),
        ]
        .into_iter()
        .chain(if options.drains { draining() } else { Vec::new() })
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
    }

    /// The process of the apiserver itself.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Spawned::pid)
    }

    pub(super) fn start(&mut self) -> Result<()> {
        if !self.has_ended()? {
            bail!("apiserver {} runs already", self.number);
        }
        let name = format!("apiserver-{}", self.number);
        let mut command = self.lab.apiserver(self.number).command(super::cached("kube-apiserver")?);
        command.args(&self.arguments);
        self.process = Some(Spawned::start(&name, command, self.lab.dir())?);
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        if self.has_ended()? {
            return Ok(());
        }
        let process = self.running()?;
        process.signal(Signal::TERM)?;
        process.wait(STOP_LIMIT)?;
        self.process = None;
        Ok(())
    }

    /// Whether it has ended, by itself or by an earlier signal.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else { return Ok(true) };
        Ok(process.exited()?.is_some())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    pub(super) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut() -> bool,
    ) -> Result<()> {
        self.running()?.wait_until(what, limit, |_| Ok(question().then_some(())))
    }

    pub(super) fn audit_log(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.audit_log).context("read the audit log")?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context("parse the audit log")).collect()
    }

    fn running(&mut self) -> Result<&mut Spawned> {
        self.process.as_mut().with_context(|| format!("apiserver {} does not run", self.number))
    }
}

/// Makes what the apiserver shows. Another authority's take the place of these.
fn certificate(lab: &Lab, number: u8, authority: &Authority) -> Result<KeyFiles> {
    let mut names = lab.apiserver_addresses(number);
    names.extend(lab.vips());
    names.push(std::net::Ipv4Addr::LOCALHOST.into());
    authority.server(&format!("apiserver-{number}"), &names)
}
