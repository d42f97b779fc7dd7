//! The container runtime of a node.
//! In: a sandbox. Out: a running containerd, which takes images.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::image::{Image, on_this_machine};
use super::sandbox::Sandbox;
use crate::command;
use crate::lab::Lab;
use crate::process::Spawned;
use crate::real::cached;

/// Longest until it answers. It takes a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest that an image of some 100 MB may take to be unpacked. It takes two seconds.
const IMPORT_LIMIT: Duration = Duration::from_secs(120);

/// The image of what holds a Pod's namespaces.
const PAUSE: &str = "apivip.test/pause:1";

/// Pods on the lab's bridge, which is there, at addresses that no pod of the lab has. `NETWORK` is the folder of this file.
const NETWORK: &str = r#"{ "cniVersion": "1.0.0", "name": "pods", "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
    "ipam": { "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }], "ranges": [[
        { "subnet": "10.244.0.0/24", "rangeStart": "10.244.0.128", "rangeEnd": "10.244.0.250" }
    ]] }
}] }
"#;

/// `restrict_oom_score_adj`: a test may lack CAP_SYS_RESOURCE, without which no process may be made less likely to be killed.
fn configuration(folder: &Path) -> String {
    format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n  bin_dirs = ['/usr/lib/cni']\n  conf_dir = '{}'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'\n",
        folder.join("cni").display()
    )
}

/// Starts it, and waits until it answers and has the image that every Pod needs.
pub(super) fn start(lab: &Lab, sandbox: &Sandbox) -> Result<Spawned> {
    let folder = lab.dir();
    let network = folder.join("cni");
    std::fs::create_dir_all(&network).context("make the folder of the Pods' network")?;
    std::fs::write(network.join("10-pods.conflist"), NETWORK).context("write the Pods' network")?;
    let file = folder.join("containerd.toml");
    std::fs::write(&file, configuration(folder)).context("write the configuration of containerd")?;
    let program = cached("containerd")?;
    let mut command = sandbox.command(&program);
    // It looks for its shim, and that for runc, in PATH.
    command.arg("--config").arg(&file).env("PATH", super::path_with(&program)?);
    let mut containerd = Spawned::start("containerd", command, folder)?;
    containerd
        .wait_until("an answer", LIMIT, |_| Ok(ctr(sandbox, &["version"], LIMIT).is_ok().then_some(())))?;
    let sleep = on_this_machine("sleep")?;
    let pause = Image::new(folder, "pause", PAUSE)?.program(&sleep, "/sleep")?;
    import(sandbox, &pause.entrypoint(&["/sleep", "infinity"]).write()?)?;
    Ok(containerd)
}

/// Makes the image of an archive known to Pods.
pub(super) fn import(sandbox: &Sandbox, archive: &Path) -> Result<()> {
    let path = archive.to_str().context("the path of an image is no text")?;
    ctr(sandbox, &["--namespace", "k8s.io", "images", "import", "--local", path], IMPORT_LIMIT)?;
    std::fs::remove_file(archive).with_context(|| format!("remove {path}"))
}

fn ctr(sandbox: &Sandbox, arguments: &[&str], limit: Duration) -> Result<String> {
    let mut ctr = sandbox.command(cached("ctr")?);
    ctr.args(arguments);
    let finished = command::finish(ctr, "", limit)?;
    anyhow::ensure!(finished.status.success(), "ctr {arguments:?}: {}{}", finished.stdout, finished.stderr);
    Ok(finished.stdout)
}
