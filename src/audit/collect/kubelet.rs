//! Looks at this node's kubelet: what it shows and answers, and what it is configured to do.
//!
//! At most a dozen requests to the kubelet and as many to the read-only port, of 3 s each, most of them at once.
//! Credentials are shown only to a server that has proved to be of the cluster and of this node.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::kubelet_files;
use crate::audit::ask::{self, Answer, Question, Reason, Server, Unanswered};
use crate::audit::certificate::Shown;
use crate::audit::hello::{OLD, TLS_1_1};
use crate::audit::kubelet::configuration::{Configuration, Known, Lack, node_addresses};
use crate::audit::kubelet::{Asked, READ_ONLY_PORT, Seen};
use crate::audit::look;
use crate::check::within;
use crate::config::AuditArgs;
use crate::process::clock::unix_now;
use crate::routes::links;
use crate::transport::ResolvedCredentials;

/// How long files and the kernel may take, which answer at once.
const LOCAL: Duration = Duration::from_secs(2);
/// At so many addresses of the node its read-only port is looked for. It listens at all of them, or at one.
const MOST_ADDRESSES: usize = 8;
/// What is asked. Both are refused by a kubelet that refuses anonymous requests.
const PATHS: [&str; 2] = ["/pods", "/healthz"];

/// Everything that counts. Ends within ten seconds, whatever hangs. `roots` are the cluster's CA in DER.
pub(crate) async fn look(
    args: &AuditArgs,
    credentials: Option<&ResolvedCredentials>,
    roots: &[Vec<u8>],
) -> Seen {
    let address = args.kubelet;
    let (files, own) = tokio::join!(files(args), within(LOCAL, own_addresses));
    let own = own.unwrap_or_default();
    let configured = files.configuration.all().map_or(0, |set| set.read_only_port);
    let ports = BTreeSet::from([READ_ONLY_PORT, if configured == 0 { READ_ONLY_PORT } else { configured }]);
    let addresses: BTreeSet<IpAddr> = match node_addresses(&files.flags) {
        published if published.is_empty() => own.iter().map(|(ip, _)| *ip).collect(),
        published => published.into_iter().collect(),
    };
    let host = address.ip().to_string();
    let (chain, old, anonymous, read_only) = tokio::join!(
        look::certificates(address, &host),
        look::offer(address, &files.name, TLS_1_1, OLD),
        anonymous(address),
        read_only(address.ip(), &own, &ports),
    );
    let now = unix_now().cast_signed();
    let shown = chain.and_then(|chain| Shown::read(&chain, roots, now));
    let mut seen = Seen {
        address,
        shown,
        old,
        anonymous,
        credentialed: Err(String::new()),
        read_only,
        configuration: files.configuration,
        name: files.name,
        addresses,
    };
    match trusted(&seen, credentials, roots) {
        Err(why) => seen.credentialed = Err(why),
        Ok((server, credentials)) => {
            let authorization = credentials.authorization.as_ref();
            // What Pods hold is nobody's business here.
            let pods = Question { path: "/pods", authorization, status_only: true, ..Question::default() };
            let set = Question { path: "/configz", authorization, ..Question::default() };
            let (pods, set) = tokio::join!(ask::ask(&server, pods), ask::ask(&server, set));
            seen.credentialed = Ok(pods.map(|answer| answer.status));
            if let Some(set) = set.ok().as_ref().and_then(live) {
                seen.configuration = Known::All(set);
            }
        }
    }
    seen
}

/// What the kubelet says itself, for those who may ask: files and flags are in it.
fn live(answer: &Answer) -> Option<Configuration> {
    let value = answer.json();
    let set = value.get("kubeletconfig").filter(|_| answer.status == 200)?;
    Configuration::read(set, "its /configz").ok()
}

/// The server to which credentials may be shown, and they.
fn trusted<'a>(
    seen: &Seen,
    credentials: Option<&'a ResolvedCredentials>,
    roots: &[Vec<u8>],
) -> Result<(Server, &'a ResolvedCredentials), String> {
    let credentials = credentials.ok_or("there are none")?;
    let shown = seen.shown.as_ref().map_err(|_| "it shows no certificate")?;
    shown.trusted.as_ref().map_err(|why| format!("they are not shown to a stranger ({why})"))?;
    let own = seen.addresses.iter().map(ToString::to_string);
    let name = std::iter::once(seen.name.clone()).chain(own).find(|name| shown.is_for(name));
    let name = name.ok_or("its certificate is not for this node")?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let config = look::verifying(roots, &credentials.tls)?;
    Ok((Server { address: seen.address, tls: Some((Arc::new(config), name)) }, credentials))
}

async fn anonymous(address: SocketAddr) -> Vec<(&'static str, Asked)> {
    let server = |config: ClientConfig| {
        let name = ServerName::IpAddress(address.ip().into());
        Server { address, tls: Some((Arc::new(config), name)) }
    };
    let config = look::taking_any().map_err(|text| Unanswered { reason: Reason::Tls, text });
    let asked = PATHS.map(|path| {
        let server = config.clone().map(server);
        async move {
            match server {
                Ok(server) => (path, ask::status(&server, path).await),
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
) -> Vec<(SocketAddr, Asked)> {
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
        let mut best: Asked = Err(Unanswered { reason: Reason::Silent, text: String::new() });
        for path in PATHS {
            let asked = ask::status(&server, path).await;
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

async fn files(args: &AuditArgs) -> kubelet_files::Found {
    let (proc, file, name) = (args.host_proc.clone(), args.kubelet_config.clone(), args.node_name.clone());
    let found = within(LOCAL, move || kubelet_files::find(&proc, file.as_deref(), name)).await;
    found.unwrap_or_else(|| kubelet_files::Found {
        configuration: Known::Nothing(Lack {
            why: format!("files were not read within {} s", LOCAL.as_secs()),
            needed: "see which file system hangs".to_owned(),
        }),
        flags: crate::audit::flags::Flags::default(),
        name: args.node_name.clone().unwrap_or_default(),
    })
}

/// The node's addresses, and whether each may be dialled: those of dummy devices are mostly Services', which kube-proxy
/// leads elsewhere.
fn own_addresses() -> Vec<(IpAddr, bool)> {
    let dummies: Vec<u32> = links::links()
        .unwrap_or_default()
        .into_iter()
        .filter(|link| link.kind == "dummy")
        .map(|link| link.index)
        .collect();
    let all = links::addresses().unwrap_or_default();
    all.into_iter().map(|seen| (seen.ip, !dummies.contains(&seen.device))).collect()
}
