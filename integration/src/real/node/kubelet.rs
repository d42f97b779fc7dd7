//! The kubelet of a node.
//! In: a sandbox with a container runtime, and a kubeconfig. Out: a running kubelet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::sandbox::Sandbox;
use crate::lab::{Lab, addresses};
use crate::process::Spawned;
use crate::real::cached;

/// Where it looks for static Pods, on the node.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Cgroups of version 1 are what some machines have. Nothing is evicted: these tests are not about full disks.
fn configuration(authority: &Path, cgroup: &str) -> String {
    let authority = authority.display();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\n\
         kind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {authority}}}}}\n\
         authorization: {{mode: Webhook}}\n\
         cgroupDriver: cgroupfs\n\
         cgroupRoot: /{cgroup}\n\
         containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
         enforceNodeAllocatable: []\n\
         evictionHard: {{memory.available: 1Mi, nodefs.available: \"0%\", imagefs.available: \"0%\"}}\n\
         failCgroupV1: false\n\
         failSwapOn: false\n\
         resolvConf: \"\"\n\
         staticPodPath: {MANIFESTS}\n"
    )
}

/// Starts it.
pub(super) fn start(
    lab: &Lab,
    sandbox: &Sandbox,
    name: &str,
    kubeconfig: &Path,
    authority: &Path,
) -> Result<Spawned> {
    fs::create_dir_all(sandbox.path(MANIFESTS)).context("make the folder of static Pods")?;
    let file = lab.dir().join("kubelet.yaml");
    fs::write(&file, configuration(authority, sandbox.cgroup()))
        .context("write the kubelet's configuration")?;
    let program = cached("kubelet")?;
    let mut command = sandbox.command(&program);
    command.arg("--config").arg(&file).arg("--kubeconfig").arg(kubeconfig);
    command.args(["--hostname-override", name, "--node-ip"]);
    command.arg(addresses::node(lab.families()[0]).to_string());
    Spawned::start("kubelet", command, lab.dir())
}
