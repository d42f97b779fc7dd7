//! apivip in Pods, as docs/install has it.
//! In: a cluster. Out: the manifests, with the image that is made here of the daemon under test, and what became of them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use super::image::Image;
use crate::command;

/// The path of the DaemonSet in the API.
pub const SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/apivip";

/// The path of its Pods.
pub const PODS: &str = "/api/v1/namespaces/kube-system/pods?labelSelector=app.kubernetes.io%2Fname%3Dapivip";

/// The image that docs/install leaves to its reader.
const PLACEHOLDER: &str = "image: apivip:0.1.0";
const IMAGE: &str = "apivip.test/apivip:1";

/// A manifest as it stands in docs/install, but for the image. The seeds in it are addresses of a lab.
pub fn manifest(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install").join(name);
    let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    ensure!(
        text.contains(PLACEHOLDER) != name.contains("rbac"),
        "{name} has another image than {PLACEHOLDER}"
    );
    Ok(text.replace(PLACEHOLDER, &format!("image: {IMAGE}")))
}

/// Makes the image known to the node.
pub fn import(cluster: &Cluster<'_>, folder: &Path) -> Result<()> {
    let program = "/usr/local/bin/apivip";
    let image = Image::new(folder, "apivip", IMAGE)?.program(&command::program("apivip")?, program)?;
    cluster.node.import(image.entrypoint(&[program]))
}

/// Applies the DaemonSet and what it may do, and waits until its Pod is ready. Its container must not have been started more than
/// once.
pub fn apply(cluster: &mut Cluster<'_>) -> Result<()> {
    for name in ["rbac.yaml", "daemonset.yaml"] {
        cluster.kubectl_reading(&["apply", "-f", "-"], &manifest(name)?)?;
    }
    cluster.wait("a DaemonSet that is ready", SET, rolled_out)?;
    let restarts = restarts(&pod(cluster)?);
    ensure!(restarts == 0, "the container was started {restarts} times again");
    Ok(())
}

/// Whether all Pods of the newest form are ready, and no older one is left.
pub fn rolled_out(set: &Value) -> bool {
    let status = &set["status"];
    let counts =
        ["desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "currentNumberScheduled"];
    status["observedGeneration"] == set["metadata"]["generation"] && counts.iter().all(|key| status[key] == 1)
}

/// The Pod of the DaemonSet, once there is one only.
pub fn pod(cluster: &mut Cluster<'_>) -> Result<Value> {
    let one = |list: &Value| list["items"].as_array().is_some_and(|items| items.len() == 1);
    Ok(cluster.wait("one Pod of apivip", PODS, one)?["items"][0].clone())
}

/// How often its container was started again.
pub fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}
