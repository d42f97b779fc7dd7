//! What kube-apiservers were started with, wherever that can be read: the static Pod of this node, this host's processes,
//! and the mirror Pods that kubelets make of static ones.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files;
use super::processes::command_lines;
use crate::audit::flags::{Flags, is_program};
use crate::audit::started::{Egress, Started};
use crate::config::AuditArgs;

const PROGRAM: &str = "kube-apiserver";

/// What this host tells.
#[derive(Default)]
pub(super) struct Local {
    pub found: Vec<Started>,
    /// The first is from the manifest.
    pub is_by_manifest: bool,
}

/// From this host.
pub(super) fn local(args: &AuditArgs) -> Local {
    let mut found = Vec::new();
    if let Some((pod, flags)) =
        files::read(&args.apiserver_manifest).ok().and_then(|pod| of_pod(&pod).map(|flags| (pod, flags)))
    {
        let started = Started::new(args.apiserver_manifest.display().to_string(), flags);
        found.push(with_egress(started, |file| mounted(&pod, file)));
    }
    let is_by_manifest = !found.is_empty();
    for process in command_lines(&args.host_proc, PROGRAM).unwrap_or_default() {
        let started = Started::new(format!("process {PROGRAM}"), Flags::read(&process.line));
        let root = process.folder.join("root");
        found.push(with_egress(started, |file| Some(root.join(file.strip_prefix("/").unwrap_or(file)))));
    }
    Local { found, is_by_manifest }
}

/// From mirror Pods.
pub(super) fn mirrored(pods: &[Value]) -> Vec<Started> {
    let name = |pod: &Value| {
        let name: String = pod["metadata"]["name"].as_str().unwrap_or_default().chars().take(100).collect();
        format!("Pod kube-system/{name}")
    };
    pods.iter().filter_map(|pod| Some(Started::new(name(pod), of_pod(pod)?))).collect()
}

/// Reads the egress selector's file, where this host has it.
fn with_egress(mut started: Started, place: impl Fn(&Path) -> Option<PathBuf>) -> Started {
    let Some(file) = started.egress_file().map(Path::new) else { return started };
    started.egress = match place(file) {
        Some(here) => files::read(&here)
            .and_then(|value| Egress::read(&value))
            .map_err(|why| format!("{}: {why}", here.display())),
        None => Err("the Pod has it from no folder of this host".to_owned()),
    };
    started
}

/// Where this host has a file of the Pod's.
fn mounted(pod: &Value, file: &Path) -> Option<PathBuf> {
    let volumes = pod["spec"]["volumes"].as_array()?;
    let containers = pod["spec"]["containers"].as_array()?;
    let mounts =
        containers.iter().flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten());
    let of = |mount: &Value| {
        let rest = file.strip_prefix(mount["mountPath"].as_str()?).ok()?;
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"])?;
        let mut here = PathBuf::from(volume["hostPath"]["path"].as_str()?);
        here.extend(mount["subPath"].as_str());
        // A file that is mounted itself has no rest, and must not get a slash.
        if !rest.as_os_str().is_empty() {
            here.push(rest);
        }
        Some((rest.components().count(), here))
    };
    mounts.filter_map(of).min_by_key(|(rest, _)| *rest).map(|(_, here)| here)
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
        let flags = of_pod(&files::read(file.path()).unwrap()).unwrap();
        assert_eq!(flags.get("authorization-mode"), Some("Node,RBAC"));
        file.write_all(b"\n  {{{").unwrap();
        assert!(files::read(file.path()).is_err() && files::read(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_pod_that_is_something_else_tells_nothing() {
        let pod = |name: &str, command: &[&str]| serde_json::json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": name, "command": command}]}});
        assert_eq!(mirrored(&[pod("etcd", &["etcd", "--x=1"]), Value::Null]), []);
        let wrapped = mirrored(&[pod("kube-apiserver", &["/bin/sh", "-c", "kube-apiserver --x"])]);
        assert_eq!(wrapped, [], "what a shell makes of it is not read");
        assert_eq!(
            mirrored(&[pod("kube-apiserver", &["/start.sh", "--secure-port=6443"])])[0].place,
            "Pod kube-system/x"
        );
    }

    #[test]
    fn a_file_of_the_pod_is_found_where_the_host_has_it() {
        let mount = |name: &str, path: &str| serde_json::json!({"name": name, "mountPath": path});
        let volume = |name: &str, path: &str| serde_json::json!({"name": name, "hostPath": {"path": path}});
        let pod = serde_json::json!({"spec": {
            "containers": [{"volumeMounts": [
                mount("all", "/etc"), mount("k8s", "/etc/kubernetes"), mount("one", "/one.yaml"), mount("secret", "/s"),
                {"name": "k8s", "mountPath": "/sub", "subPath": "below"},
            ]}],
            "volumes": [volume("all", "/host/etc"), volume("k8s", "/host/k8s"), volume("one", "/host/one.yaml"), {"name": "secret"}],
        }});
        for (file, here) in [
            ("/etc/kubernetes/egress.yaml", Some("/host/k8s/egress.yaml")),
            ("/etc/other.yaml", Some("/host/etc/other.yaml")),
            ("/one.yaml", Some("/host/one.yaml")),
            ("/sub/a", Some("/host/k8s/below/a")),
            ("/s/a", None),
            ("/etckubernetes", None),
        ] {
            assert_eq!(mounted(&pod, Path::new(file)), here.map(PathBuf::from), "{file}");
        }
        assert_eq!(mounted(&Value::Null, Path::new("/a")), None);
    }
}
