//! What this host's files and processes tell: flags of kube-apiservers, listeners, sysctls, the CAs that its system trusts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::audit::flags::{ApiserverFlags, Egress, Flags, is_program};
use crate::audit::redirect::Listener;
use crate::config::AuditArgs;
use crate::transport::text::errno_text;

/// Of a file, in bytes. What is read here has some thousands.
const FILE_BYTES: u64 = 1 << 20;

/// Reads one.
///
/// # Errors
/// Says what is wrong with it, without its name.
pub(super) fn read_yaml(path: &Path) -> Result<Value, String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text));
    match file {
        Ok(bytes) if bytes as u64 == FILE_BYTES => Err("larger than 1 MiB".to_owned()),
        Ok(_) => parse_yaml(&text),
        Err(error) => Err(errno_text(&error)),
    }
}

/// Parses one.
///
/// # Errors
/// Says what is wrong with it.
fn parse_yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or("no YAML").to_owned()
    })
}

/// More than any command line of a kube-apiserver, in bytes (`getconf ARG_MAX` is two millions).
const LINE_BYTES: usize = 2 << 20;

/// A process of the host.
pub(super) struct Process {
    /// Its folder in `/proc`.
    pub folder: PathBuf,
    /// Its command line.
    pub line: Vec<String>,
}

/// Those of `program`, from the `/proc` of the host's pid namespace.
///
/// # Errors
/// The folder cannot be read. A process that ends meanwhile is none.
pub(super) fn command_lines(proc: &Path, program: &str) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let Ok(entry) = entry else { continue };
        let pid = entry.file_name();
        if !pid.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        if bytes.len() < LINE_BYTES && is_program(&words, program) {
            found.push(Process { folder: entry.path(), line: words });
        }
    }
    Ok(found)
}

const PROGRAM: &str = "kube-apiserver";

/// The kube-apiservers of this host.
#[derive(Default)]
pub(super) struct ApiserversHere {
    pub found: Vec<ApiserverFlags>,
    /// The first is from the manifest.
    pub is_by_manifest: bool,
}

/// From this host.
pub(super) fn apiservers_here(args: &AuditArgs) -> ApiserversHere {
    let mut found = Vec::new();
    if let Some((pod, flags)) =
        read_yaml(&args.apiserver_manifest).ok().and_then(|pod| of_pod(&pod).map(|flags| (pod, flags)))
    {
        let apiserver = ApiserverFlags::new(args.apiserver_manifest.display().to_string(), flags);
        found.push(with_egress(apiserver, |file| mounted(&pod, file)));
    }
    let is_by_manifest = !found.is_empty();
    for process in command_lines(&args.host_proc, PROGRAM).unwrap_or_default() {
        let apiserver = ApiserverFlags::new(format!("process {PROGRAM}"), Flags::read(&process.line));
        let root = process.folder.join("root");
        found.push(with_egress(apiserver, |file| Some(root.join(file.strip_prefix("/").unwrap_or(file)))));
    }
    ApiserversHere { found, is_by_manifest }
}

/// From mirror Pods.
pub(super) fn of_mirror_pods(pods: &[Value]) -> Vec<ApiserverFlags> {
    let name = |pod: &Value| {
        let name: String = pod["metadata"]["name"].as_str().unwrap_or_default().chars().take(100).collect();
        format!("Pod kube-system/{name}")
    };
    pods.iter().filter_map(|pod| Some(ApiserverFlags::new(name(pod), of_pod(pod)?))).collect()
}

/// Reads the egress selector's file, where this host has it.
fn with_egress(mut apiserver: ApiserverFlags, place: impl Fn(&Path) -> Option<PathBuf>) -> ApiserverFlags {
    let Some(file) = apiserver.egress_file().map(Path::new) else { return apiserver };
    apiserver.egress = match place(file) {
        Some(here) => read_yaml(&here)
            .and_then(|value| Egress::read(&value))
            .map_err(|why| format!("{}: {why}", here.display())),
        None => Err("the Pod does not mount it from a directory of this host".to_owned()),
    };
    apiserver
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

/// Its place below the namespace `kube-system`.
pub(super) const KUBEADM_CONFIG: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";
const KUBEADM_PLACE: &str = "ClusterConfiguration in ConfigMap kube-system/kubeadm-config";

/// What all of its apiservers are started with, if the ConfigMap says so.
pub(super) fn of_kubeadm(map: &Value) -> Option<ApiserverFlags> {
    let text = map["data"]["ClusterConfiguration"].as_str()?;
    let configuration: Value = parse_yaml(text).ok()?;
    if configuration["kind"] != "ClusterConfiguration" {
        return None;
    }
    let arguments = &configuration["apiServer"]["extraArgs"];
    // kubeadm sets this one itself (`getAPIServerCommand`), unless it is given another.
    let mut flags = BTreeMap::from([("authorization-mode".to_owned(), "Node,RBAC".to_owned())]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match arguments {
        // Until v1beta3.
        Value::Object(by_name) => {
            flags.extend(by_name.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))));
        }
        // Since v1beta4.
        Value::Array(list) => {
            let pair = |entry: &Value| Some((text(&entry["name"])?, text(&entry["value"])?));
            flags.extend(list.iter().filter_map(pair));
        }
        Value::Null => {}
        _ => return None,
    }
    Some(ApiserverFlags::new(KUBEADM_PLACE.to_owned(), flags.into_iter().collect()))
}

/// Where distributions keep the CAs that their programs trust.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// `TCP_LISTEN` in the tables of sockets.
const LISTEN: &str = "0A";

/// The subjects of the cluster's CA, and those of them that this host's system trusts as well; `None` if that has no list.
pub(super) fn system_trust(roots: &[Vec<u8>]) -> (Vec<String>, Option<Vec<String>>) {
    let system = SYSTEM_BUNDLES.iter().find_map(|path| fs::read(path).ok());
    let system: Option<BTreeSet<Vec<u8>>> =
        system.map(|pem| CertificateDer::pem_slice_iter(&pem).flatten().map(|der| der.to_vec()).collect());
    let public = system
        .map(|system| roots.iter().filter(|der| system.contains(*der)).map(|der| subject(der)).collect());
    (roots.iter().map(|der| subject(der)).collect(), public)
}

fn subject(der: &[u8]) -> String {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => {
            certificate.subject().to_string().chars().filter(|c| !c.is_control()).take(200).collect()
        }
        Err(_) => "a certificate that cannot be parsed".to_owned(),
    }
}

/// Whether processes may bind addresses that are not the node's.
pub(super) fn nonlocal_bind() -> Vec<(&'static str, Option<bool>)> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim() != "0");
    vec![
        ("net.ipv4.ip_nonlocal_bind", read("/proc/sys/net/ipv4/ip_nonlocal_bind")),
        ("net.ipv6.ip_nonlocal_bind", read("/proc/sys/net/ipv6/ip_nonlocal_bind")),
    ]
}

/// The effective value of each interface: of `all` and its own the higher (`ip-sysctl`).
pub(super) fn rp_filter() -> Option<Vec<(String, i64)>> {
    const INTERFACES: &str = "/proc/sys/net/ipv4/conf";
    let value = |name: &str| -> Option<i64> {
        fs::read_to_string(format!("{INTERFACES}/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    let all = value("all")?;
    let names = fs::read_dir(INTERFACES).ok()?.flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<(String, i64)> = names
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .filter_map(|name| Some((name.clone(), value(&name)?.max(all))))
        .collect();
    found.sort();
    Some(found)
}

/// The sockets of this network namespace that listen on one of `vips`. Their processes are found in `proc`.
///
/// # Errors
/// One line: the kernel's tables of sockets cannot be read.
pub(super) fn listeners(vips: &BTreeSet<SocketAddr>, proc: &Path) -> Result<Vec<Listener>, String> {
    let mut found = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(text) => found.extend(text.lines().skip(1).filter_map(listening)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
    let found = found.into_iter().filter(|(address, _)| vips.contains(address));
    let listener = |(address, inode)| {
        let pid = owner_of(proc, inode);
        Listener { address, pid, inner: pid.and_then(|pid| inner(proc, pid)) }
    };
    Ok(found.map(listener).collect())
}

/// A line of `/proc/net/tcp`: the address as the hexadecimal numbers that its words are to this machine.
fn listening(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    if !matches!(address.len(), 8 | 32) {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip.to_canonical(), port), fields.get(9)?.parse().ok()?))
}

/// A process's number in its own pid namespace: the last of `NSpid`.
fn inner(proc: &Path, pid: u64) -> Option<u64> {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// The process that holds a socket.
fn owner_of(proc: &Path, inode: u64) -> Option<u64> {
    let socket = format!("socket:[{inode}]");
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let holds =
            files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy() == socket));
        holds.then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    mod flags {
        use std::io::Write;

        use super::super::*;

        #[test]
        fn flags_of_static_pod_are_read() {
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
            let flags = of_pod(&read_yaml(file.path()).unwrap()).unwrap();
            assert_eq!(flags.get("authorization-mode"), Some("Node,RBAC"));
            file.write_all(b"\n  {{{").unwrap();
            assert!(read_yaml(file.path()).is_err() && read_yaml(Path::new("/nonexistent")).is_err());
        }

        #[test]
        fn pod_of_another_component_has_no_flags() {
            let pod = |name: &str, command: &[&str]| serde_json::json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": name, "command": command}]}});
            assert_eq!(of_mirror_pods(&[pod("etcd", &["etcd", "--x=1"]), Value::Null]), []);
            let wrapped = of_mirror_pods(&[pod("kube-apiserver", &["/bin/sh", "-c", "kube-apiserver --x"])]);
            assert_eq!(wrapped, [], "what a shell makes of it is not read");
            assert_eq!(
                of_mirror_pods(&[pod("kube-apiserver", &["/start.sh", "--secure-port=6443"])])[0].place,
                "Pod kube-system/x"
            );
        }

        #[test]
        fn pod_path_is_resolved_through_host_path_volumes() {
            let mount = |name: &str, path: &str| serde_json::json!({"name": name, "mountPath": path});
            let volume =
                |name: &str, path: &str| serde_json::json!({"name": name, "hostPath": {"path": path}});
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

    mod kubeadm {
        use serde_json::json;

        use super::super::*;

        fn of(text: &str) -> Option<ApiserverFlags> {
            of_kubeadm(&json!({"data": {"ClusterConfiguration": text}}))
        }

        #[test]
        fn kubeadm_extra_args_are_read_in_both_forms() {
            for arguments in [
                "{kubelet-certificate-authority: /ca, ssh-user: core}",
                "[{name: kubelet-certificate-authority, value: /ca}, {name: ssh-user, value: core}, {name: 1}]",
            ] {
                let found =
                    of(&format!("kind: ClusterConfiguration\napiServer: {{extraArgs: {arguments}}}\n"));
                let flags = found.unwrap().flags;
                let seen = ["kubelet-certificate-authority", "ssh-user", "authorization-mode"];
                assert_eq!(seen.map(|name| flags.get(name)), [Some("/ca"), Some("core"), Some("Node,RBAC")]);
            }
            let bare = of("kind: ClusterConfiguration").unwrap();
            assert_eq!(bare.flags.get("authorization-mode"), Some("Node,RBAC"));
            let other =
                of("{kind: ClusterConfiguration, apiServer: {extraArgs: {authorization-mode: AlwaysAllow}}}");
            assert_eq!(other.unwrap().flags.get("authorization-mode"), Some("AlwaysAllow"));
        }

        #[test]
        fn anything_else_tells_nothing() {
            for text in [
                "",
                "{{",
                "kind: InitConfiguration",
                "{kind: ClusterConfiguration, apiServer: {extraArgs: x}}",
            ] {
                assert_eq!(of(text), None, "{text}");
            }
            assert_eq!(of_kubeadm(&Value::Null), None);
        }
    }

    mod node {
        use super::super::*;

        #[test]
        fn lines_of_proc_net_tcp_are_read() {
            let line = |address: &str, state: &str| {
                format!(
                    "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 x"
                )
            };
            let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
            let four = format!("{}:01BB", word([10, 96, 0, 1]));
            assert_eq!(listening(&line(&four, "0A")), Some(("10.96.0.1:443".parse().unwrap(), 4711)));
            assert_eq!(listening(&line(&four, "01")), None);
            let mapped = format!(
                "{}{}{}{}:01BB",
                word([0; 4]),
                word([0; 4]),
                word([0, 0, 255, 255]),
                word([10, 96, 0, 1])
            );
            assert_eq!(listening(&line(&mapped, "0A")).unwrap().0, "10.96.0.1:443".parse().unwrap());
            for odd in ["", "0: x", "0: zz:01BB 0 0A 0 0 0 0 0 1", "0: 0102:01BB 0 0A 0 0 0 0 0 1"] {
                assert_eq!(listening(odd), None, "{odd}");
            }
        }

        #[test]
        fn listener_of_this_process_is_found() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let found = listeners(&BTreeSet::from([address]), Path::new("/proc")).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].address, found[0].pid), (address, Some(u64::from(std::process::id()))));
            assert!(found[0].inner.is_some());
        }
    }
}
