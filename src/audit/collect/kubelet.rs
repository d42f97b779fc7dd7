//! Probes this node's kubelet and reads how it is configured.
//!
//! At most a dozen requests to the kubelet and as many to the read-only port, of 3 s each, most of them at once. Credentials are
//! shown only to a server that has proved to be of the cluster and of this node.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::audit::certificate::ServedCertificate;
use crate::audit::client_hello::{OLD, TLS_1_1};
use crate::audit::collect::host::{command_lines, read_yaml};
use crate::audit::flags::Flags;
use crate::audit::http::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, Server};
use crate::audit::kubelet::{KubeletProbe, READ_ONLY_PORT, StatusResult};
use crate::audit::kubelet_config::{
    KnownConfiguration, KubeletConfiguration, MissingInput, merge, node_addresses,
};
use crate::audit::{http, tls};
use crate::check::within;
use crate::config::AuditArgs;
use crate::process::clock::unix_now;
use crate::routes::links;
use crate::transport::ResolvedCredentials;
use crate::transport::text::errno_text;

/// How long files and the kernel may take, which answer at once.
const LOCAL: Duration = Duration::from_secs(2);
/// The most addresses of the node at which the read-only port is probed. The kubelet binds all of them, or one.
const MOST_ADDRESSES: usize = 8;
/// What is asked. Both are refused by a kubelet that refuses anonymous requests.
const PATHS: [&str; 2] = ["/pods", "/healthz"];

/// Probes the kubelet and reads its configuration. Ends within ten seconds, whatever hangs. `roots` are the cluster's CA in DER.
pub(super) async fn probe(
    args: &AuditArgs,
    credentials: Option<&ResolvedCredentials>,
    roots: &[Vec<u8>],
) -> KubeletProbe {
    let address = args.kubelet;
    let (kubelet_files, own) = tokio::join!(kubelet_files(args), within(LOCAL, own_addresses));
    let own = own.unwrap_or_default();
    let configured = kubelet_files.configuration.all().map_or(0, |set| set.read_only_port);
    let ports = BTreeSet::from([READ_ONLY_PORT, if configured == 0 { READ_ONLY_PORT } else { configured }]);
    let addresses: BTreeSet<IpAddr> = match node_addresses(&kubelet_files.flags) {
        published if published.is_empty() => own.iter().map(|(ip, _)| *ip).collect(),
        published => published.into_iter().collect(),
    };
    let host = address.ip().to_string();
    let (chain, old, anonymous, read_only) = tokio::join!(
        tls::certificates(address, &host),
        tls::offer(address, &kubelet_files.name, TLS_1_1, OLD),
        anonymous(address),
        read_only(address.ip(), &own, &ports),
    );
    let now = unix_now().cast_signed();
    let served = chain.and_then(|chain| ServedCertificate::read(&chain, roots, now));
    let mut probed = KubeletProbe {
        address,
        served,
        old,
        anonymous,
        credentialed: Err(String::new()),
        read_only,
        configuration: kubelet_files.configuration,
        name: kubelet_files.name,
        addresses,
    };
    match may_show_credentials(&probed, credentials, roots) {
        Err(why) => probed.credentialed = Err(why),
        Ok((server, credentials)) => {
            let authorization = credentials.authorization.as_ref();
            // The Pods themselves are not needed.
            let pods =
                HttpRequest { path: "/pods", authorization, status_only: true, ..HttpRequest::default() };
            let set = HttpRequest { path: "/configz", authorization, ..HttpRequest::default() };
            let (pods, set) = tokio::join!(http::request(&server, pods), http::request(&server, set));
            probed.credentialed = Ok(pods.map(|answer| answer.status));
            if let Some(set) = set.ok().as_ref().and_then(live) {
                probed.configuration = KnownConfiguration::All(set);
            }
        }
    }
    probed
}

/// The kubelet's own `/configz`, for callers that may read it: files and flags are merged in it.
fn live(answer: &HttpResponse) -> Option<KubeletConfiguration> {
    let value = answer.json();
    let set = value.get("kubeletconfig").filter(|_| answer.status == 200)?;
    KubeletConfiguration::read(set, "its /configz").ok()
}

/// The server to which credentials may be shown, and they.
fn may_show_credentials<'a>(
    probed: &KubeletProbe,
    credentials: Option<&'a ResolvedCredentials>,
    roots: &[Vec<u8>],
) -> Result<(Server, &'a ResolvedCredentials), String> {
    let credentials = credentials.ok_or("no credentials are configured")?;
    let served = probed.served.as_ref().map_err(|_| "it presents no certificate")?;
    served.trusted.as_ref().map_err(|why| format!("they are not sent to an unverified server ({why})"))?;
    let own = probed.addresses.iter().map(ToString::to_string);
    let name = std::iter::once(probed.name.clone()).chain(own).find(|name| served.is_for(name));
    let name = name.ok_or("its certificate is not for this node")?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let config = tls::verify_with_roots(roots, &credentials.tls)?;
    Ok((Server { address: probed.address, tls: Some((Arc::new(config), name)) }, credentials))
}

async fn anonymous(address: SocketAddr) -> Vec<(&'static str, StatusResult)> {
    let server = |config: ClientConfig| {
        let name = ServerName::IpAddress(address.ip().into());
        Server { address, tls: Some((Arc::new(config), name)) }
    };
    let config = tls::accept_any_certificate().map_err(|text| HttpError { reason: HttpErrorKind::Tls, text });
    let asked = PATHS.map(|path| {
        let server = config.clone().map(server);
        async move {
            match server {
                Ok(server) => (path, http::status(&server, path).await),
                Err(error) => (path, Err(error)),
            }
        }
    });
    join_all(asked).await
}

/// The best answer of each address and port.
async fn read_only(
    kubelet: IpAddr,
    own: &[(IpAddr, bool)],
    ports: &BTreeSet<u16>,
) -> Vec<(SocketAddr, StatusResult)> {
    let first = [kubelet, IpAddr::from(Ipv4Addr::LOCALHOST)];
    let dialled = own.iter().filter(|(_, dialled)| *dialled).map(|(ip, _)| *ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in first.into_iter().chain(dialled) {
        if !addresses.contains(&ip) && addresses.len() < MOST_ADDRESSES {
            addresses.push(ip);
        }
    }
    let all = addresses.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)));
    join_all(all.map(|address| async move {
        let server = Server { address, tls: None };
        let mut best: StatusResult = Err(HttpError { reason: HttpErrorKind::Silent, text: String::new() });
        for path in PATHS {
            let asked = http::status(&server, path).await;
            let is_end = asked.is_err() || asked.as_ref().is_ok_and(|status| (200..300).contains(status));
            best = asked;
            if is_end {
                break;
            }
        }
        (address, best)
    }))
    .await
}

async fn kubelet_files(args: &AuditArgs) -> KubeletFiles {
    let (proc, file, name) = (args.host_proc.clone(), args.kubelet_config.clone(), args.node_name.clone());
    let found = within(LOCAL, move || kubelet_files_of(&proc, file.as_deref(), name)).await;
    found.unwrap_or_else(|| KubeletFiles {
        configuration: KnownConfiguration::Nothing(MissingInput {
            why: format!("reading files took longer than {} s", LOCAL.as_secs()),
            needed: "find the file system that hangs".to_owned(),
        }),
        flags: crate::audit::flags::Flags::default(),
        name: args.node_name.clone().unwrap_or_default(),
    })
}

/// The node's addresses, and whether each may be dialled: those of dummy devices are mostly Services', which kube-proxy
/// redirects.
fn own_addresses() -> Vec<(IpAddr, bool)> {
    let dummies: Vec<u32> = links::links()
        .unwrap_or_default()
        .into_iter()
        .filter(|link| link.kind == "dummy")
        .map(|link| link.index)
        .collect();
    let all = links::addresses().unwrap_or_default();
    all.into_iter().map(|probed| (probed.ip, !dummies.contains(&probed.device))).collect()
}

/// kubeadm's place for it, and most others'.
const USUAL: &str = "/var/lib/kubelet/config.yaml";
/// Of a folder of drop-ins, in files.
const MOST_FILES: usize = 64;

/// What was found.
struct KubeletFiles {
    pub configuration: KnownConfiguration,
    /// Of the command line, if it can be read.
    pub flags: Flags,
    /// The Node object's name.
    pub name: String,
}

/// Looks. `file` and `name` are what the operator said.
fn kubelet_files_of(proc: &Path, file: Option<&Path>, name: Option<String>) -> KubeletFiles {
    let line = command_line(proc);
    let flags = line.as_ref().map(|line| Flags::read(line)).unwrap_or_default();
    let name = name
        .or_else(|| flags.get("hostname-override").map(str::to_owned))
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    let configuration = match line {
        Ok(_) => {
            by_command_line(&flags, file).map_or_else(KnownConfiguration::Nothing, KnownConfiguration::All)
        }
        Err(missing) => {
            let usual = file.unwrap_or(Path::new(USUAL));
            match read_configuration(usual, None) {
                Ok(configuration) => KnownConfiguration::Files(configuration, missing),
                Err(_) if file.is_none() => KnownConfiguration::Nothing(missing),
                Err(other) => KnownConfiguration::Nothing(other),
            }
        }
    };
    KubeletFiles { configuration, flags, name: name.trim().to_lowercase() }
}

/// That of the one kubelet.
fn command_line(proc: &Path) -> Result<Vec<String>, MissingInput> {
    let served = proc.display();
    let mut found = command_lines(proc, "kubelet").map_err(|error| MissingInput {
        why: format!("{served}: {}", errno_text(&error)),
        needed: "access to /proc of the host: --host-proc DIR".to_owned(),
    })?;
    match (found.pop(), found.len()) {
        (Some(process), 0) => Ok(process.line),
        (None, _) => Err(MissingInput {
            why: format!("the command line of the kubelet is not in {served}"),
            needed: "hostPID: true in a Pod, or /proc of the host mounted and set with --host-proc; or credentials with permission to get \
                     nodes/configz or nodes/proxy, to read it from the kubelet (also where the kubelet is part of another program, \
                     as in k3s)"
                .to_owned(),
        }),
        (Some(_), more) => Err(MissingInput {
            why: format!("{} kubelets are in {served}", more + 1),
            needed: "/proc of a single node: --host-proc DIR".to_owned(),
        }),
    }
}

/// The configuration of a kubelet with these flags.
fn by_command_line(flags: &Flags, file: Option<&Path>) -> Result<KubeletConfiguration, MissingInput> {
    let Some(named) = flags.get("config") else {
        return Ok(KubeletConfiguration::by_flags_alone().with(flags));
    };
    let mut set =
        read_configuration(file.unwrap_or(Path::new(named)), flags.get("config-dir").map(Path::new))?
            .with(flags);
    set.source.push_str(" and its command line");
    Ok(set)
}

/// Reads a file, and those of a folder above it.
fn read_configuration(file: &Path, folder: Option<&Path>) -> Result<KubeletConfiguration, MissingInput> {
    let mut value = parsed(file)?;
    let mut source = file.display().to_string();
    if let Some(folder) = folder {
        for above in drop_ins(folder).map_err(|error| missing(folder, &errno_text(&error)))? {
            merge(&mut value, parsed(&above)?);
        }
        source = format!("{source}, {}", folder.display());
    }
    KubeletConfiguration::read(&value, source).map_err(|error| missing(file, &error))
}

/// The kubelet reads files that end in `.conf`, in the order of their names.
fn drop_ins(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "conf") {
            all.push(path);
        }
    }
    all.sort();
    if all.len() > MOST_FILES {
        return Err(io::Error::other(format!("more than {MOST_FILES} files")));
    }
    Ok(all)
}

fn parsed(path: &Path) -> Result<Value, MissingInput> {
    read_yaml(path).map_err(|why| missing(path, &why))
}

fn missing(path: &Path, why: &str) -> MissingInput {
    let path = path.display();
    MissingInput {
        why: format!("{path}: {why}"),
        needed: format!(
            "permission to read {path}; in a Pod a mount of it, and elsewhere its path in --kubelet-config"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A `/proc` with these processes, and a folder for files beside it.
    fn node(lines: &[&[&str]]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path().join("proc");
        for (line, pid) in lines.iter().zip(100..) {
            let process = proc.join(format!("{pid}"));
            fs::create_dir_all(&process).unwrap();
            let words: String = line.iter().flat_map(|word| [word, "\0"]).collect();
            fs::write(process.join("cmdline"), words).unwrap();
        }
        fs::create_dir_all(&proc).unwrap();
        (folder, proc)
    }

    fn why(known: &KnownConfiguration) -> String {
        known.why(|set| set.mode.clone())
    }

    #[test]
    fn command_line_names_files_and_overrides_them() {
        let (folder, _) = node(&[]);
        let file = folder.path().join("config.yaml");
        let drop_ins = folder.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(&file, "kind: KubeletConfiguration\nserverTLSBootstrap: true\nreadOnlyPort: 10255\n")
            .unwrap();
        fs::write(drop_ins.join("10.conf"), "readOnlyPort: 10256\nauthorization: {mode: AlwaysAllow}\n")
            .unwrap();
        fs::write(drop_ins.join("20.conf"), "authorization: {mode: Webhook}\n").unwrap();
        fs::write(drop_ins.join("30.yaml"), "not looked at").unwrap();
        let (config, folder_flag) =
            (format!("--config={}", file.display()), format!("--config-dir={}", drop_ins.display()));
        let line = [
            "/usr/bin/kubelet",
            &config,
            &folder_flag,
            "--anonymous-auth=true",
            "--hostname-override=Node-7",
        ];
        let (_kept, proc) = node(&[&["/sbin/init"], &line]);
        let found = kubelet_files_of(&proc, None, None);
        let set = found.configuration.all().unwrap();
        assert!(set.anonymous && set.bootstrap);
        assert_eq!((set.mode.as_str(), set.read_only_port), ("Webhook", 10_256));
        assert!(set.source.ends_with("conf.d and its command line"), "{}", set.source);
        assert_eq!(found.name, "node-7");

        // A container has the file elsewhere.
        let (_kept, proc) = node(&[&["kubelet", "--config", "/nowhere/config.yaml"]]);
        assert!(
            why(&kubelet_files_of(&proc, None, None).configuration)
                .starts_with("/nowhere/config.yaml: no such file")
        );
        assert!(kubelet_files_of(&proc, Some(&file), None).configuration.all().unwrap().bootstrap);
    }

    #[test]
    fn without_file_flags_are_the_configuration() {
        let (_kept, proc) = node(&[&["kubelet", "--authorization-mode=Webhook"]]);
        let found = kubelet_files_of(&proc, None, Some("Given".to_owned()));
        let set = found.configuration.all().unwrap();
        assert!(set.anonymous && set.mode == "Webhook" && set.source == "its command line");
        assert_eq!(found.name, "given");
    }

    #[test]
    fn unreadable_inputs_are_reported() {
        let (folder, proc) = node(&[]);
        let file = folder.path().join("config.yaml");
        assert!(
            why(&kubelet_files_of(&proc, Some(&file), None).configuration)
                .contains("config.yaml: no such file")
        );
        fs::write(&file, "authorization: {mode: AlwaysAllow}\n").unwrap();
        let found = kubelet_files_of(&proc, Some(&file), None);
        assert!(found.configuration.all().is_err());
        let text = why(&found.configuration);
        assert!(
            text.contains("config.yaml says AlwaysAllow, but the command line of the kubelet is not in"),
            "{text}"
        );
        for (bad, words) in [
            ("a: [", "config.yaml: "),
            ("[]", "not a KubeletConfiguration"),
            ("readOnlyPort: x", "not a port"),
        ] {
            fs::write(&file, bad).unwrap();
            let text = why(&kubelet_files_of(&proc, Some(&file), None).configuration);
            assert!(text.contains(words) && !text.contains('\n'), "{text}");
        }
        fs::write(&file, " ".repeat(2 << 20)).unwrap();
        assert!(why(&kubelet_files_of(&proc, Some(&file), None).configuration).contains("larger than 1 MiB"));
        let (_kept, two) = node(&[&["kubelet"], &["/opt/kubelet", "--v=2"]]);
        assert!(why(&kubelet_files_of(&two, None, None).configuration).contains("2 kubelets"));
        let nowhere = folder.path().join("none");
        assert!(why(&kubelet_files_of(&nowhere, None, None).configuration).contains("none: no such file"));
    }
}
