//! What kube-apiservers were started with, wherever that can be read: the static Pod of this node, this host's processes,
//! and the mirror Pods that kubelets make of static ones.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::processes::command_lines;
use crate::audit::flags::{Flags, is_program};
use crate::config::AuditArgs;

const PROGRAM: &str = "kube-apiserver";
/// More than any manifest of one Pod, in bytes.
const MANIFEST_BYTES: u64 = 1 << 20;

/// What this host tells.
#[derive(Default)]
pub(super) struct Local {
    /// Each with where it stands.
    pub found: Vec<(String, Flags)>,
    /// The first is from the manifest.
    pub is_by_manifest: bool,
}

/// From this host.
pub(super) fn local(args: &AuditArgs) -> Local {
    let place = args.apiserver_manifest.display().to_string();
    let manifest = manifest(&args.apiserver_manifest).and_then(|pod| of_pod(&pod));
    let is_by_manifest = manifest.is_some();
    let running = command_lines(&args.host_proc, PROGRAM).unwrap_or_default();
    let running = running.iter().map(|line| (format!("process {PROGRAM}"), Flags::read(line)));
    Local { found: manifest.map(|flags| (place, flags)).into_iter().chain(running).collect(), is_by_manifest }
}

/// From mirror Pods.
pub(super) fn mirrored(pods: &[Value]) -> Vec<(String, Flags)> {
    let name = |pod: &Value| {
        let name: String = pod["metadata"]["name"].as_str().unwrap_or_default().chars().take(100).collect();
        format!("Pod kube-system/{name}")
    };
    pods.iter().filter_map(|pod| Some((name(pod), of_pod(pod)?))).collect()
}

fn manifest(path: &Path) -> Option<Value> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MANIFEST_BYTES).read_to_string(&mut text).ok()?;
    serde_saphyr::from_str(&text).ok()
}

/// Those of the container that is a kube-apiserver.
fn of_pod(pod: &Value) -> Option<Flags> {
    let containers = pod["spec"]["containers"].as_array()?;
    let line = |container: &Value| -> Vec<String> {
        let words =
            ["command", "args"].into_iter().flat_map(|key| container[key].as_array().into_iter().flatten());
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    containers.iter().find_map(|container| {
        let words = line(container);
        let named = container["name"] == PROGRAM && words.iter().any(|word| word.starts_with("--"));
        (is_program(&words, PROGRAM) || named).then(|| Flags::read(&words))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_static_pod_tells_its_flags() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --authorization-mode=Node,RBAC
    - --kubelet-certificate-authority=/etc/kubernetes/pki/ca.crt
";
        file.write_all(text.as_bytes()).unwrap();
        let flags = of_pod(&manifest(file.path()).unwrap()).unwrap();
        assert_eq!(flags.get("authorization-mode"), Some("Node,RBAC"));
        file.write_all(b"\n  {{{").unwrap();
        assert_eq!(manifest(file.path()), None);
        assert_eq!(manifest(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_pod_that_is_something_else_tells_nothing() {
        let pod = |name: &str, command: &[&str]| serde_json::json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": name, "command": command}]}});
        assert_eq!(mirrored(&[pod("etcd", &["etcd", "--x=1"]), Value::Null]), []);
        let wrapped = mirrored(&[pod("kube-apiserver", &["/bin/sh", "-c", "kube-apiserver --x"])]);
        assert_eq!(wrapped, [], "what a shell makes of it is not read");
        assert_eq!(
            mirrored(&[pod("kube-apiserver", &["/start.sh", "--secure-port=6443"])])[0].0,
            "Pod kube-system/x"
        );
    }
}
