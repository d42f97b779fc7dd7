//! Looks at what the audit judges, each question with a limit of its own.

mod address;
mod files;
mod flags;
mod kubeadm;
mod kubelet;
mod kubelet_files;
mod node;
mod processes;
mod reviews;
mod stranger;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use self::address::Asking;
use self::reviews::Api;
use super::apiserver::Face;
use super::ask::Server;
use super::control::Control;
use super::redirect::Redirect;
use super::requests::Door;
use crate::check::{self, AskDaemon, Scope, neighbours, node as doctor, within};
use crate::config::AuditArgs;
use crate::process::clock::unix_now;
use crate::transport::{Access, ResolvedCredentials, TLS_NAME};

/// All that is read from files.
const FILES: Duration = Duration::from_secs(3);
/// A credential plugin.
const PLUGIN: Duration = Duration::from_secs(8);
/// All that one apiserver is asked about the control plane.
const REVIEWS: Duration = Duration::from_secs(12);

/// Everything that was seen.
pub(super) struct Seen {
    /// Each address of the API, the virtual IPs first.
    pub faces: Vec<Face>,
    pub doors: Vec<Door>,
    /// The names that clients dial.
    pub names: Vec<String>,
    pub control: Control,
    pub kubelet: super::kubelet::Seen,
    pub redirect: Redirect,
    /// The token of the node's credentials.
    pub token: Option<String>,
    /// The subjects of the CA bundle, and those of them that the host's system trusts too.
    pub trusted: (Vec<String>, Option<Vec<String>>),
    /// Seconds since 1970.
    pub now: i64,
}

pub(super) async fn collect(args: &AuditArgs, ask: AskDaemon) -> Seen {
    let local = args.clone();
    let flags = within(FILES, move || flags::local(&local));
    let (look, access, flags) =
        tokio::join!(check::look(&args.run, ask, Scope::Node), check::access(&args.run), flags,);
    let access = access.unwrap_or_else(|| Err("no kubeconfig is given, and this is no Pod".to_owned()));
    let credentials = credentials(access.as_ref()).await;
    let roots = access.as_ref().map(|access| access.roots().to_vec()).unwrap_or_default();
    let name = access.as_ref().map_or(TLS_NAME, |access| access.tls_name());
    let name = args.run.health.probe_server_name.as_deref().unwrap_or(name);
    let asking = Asking {
        name,
        roots: &roots,
        trust: access.as_ref().map_err(Clone::clone).and_then(Access::trust),
        credentials: credentials.as_ref().map_err(Clone::clone),
        now: unix_now().cast_signed(),
    };

    let vips = &look.serving;
    let backends = look.api.examined.iter().map(|examined| examined.address);
    let addresses: Vec<SocketAddr> =
        vips.iter().copied().chain(backends.filter(|backend| !vips.contains(backend))).collect();
    let faces = join_all(addresses.iter().map(|address| address::face(*address, &asking))).await;
    let doors = faces.iter().map(|face| address::door(face, &asking, vips.contains(&face.address)));
    let shown = asking.credentials.clone().ok();
    let (doors, mut control, kubelet) =
        tokio::join!(join_all(doors), control(&faces, vips, &asking), kubelet::look(args, shown, &roots),);
    // What this host has is the nearest, and comes first.
    let flags = flags.unwrap_or_default();
    // A static Pod's file is root's alone; a process may call itself by any name.
    let alone = faces.len() <= vips.len() + 1 && flags.is_by_manifest;
    control.all_flags |= alone;
    control.add_local(flags.found);
    local_agents(args, &mut control).await;

    let (listening, proc) = (look.here.vips.clone(), args.host_proc.clone());
    let listeners = within(FILES, move || node::listeners(&listening, &proc)).await;
    let mut doctored = neighbours::neighbours(&look.traces);
    doctored.extend(doctor::here(&look.here));
    let bundle = roots.clone();
    let mut names = vec![TLS_NAME.to_owned()];
    names.extend(vips.iter().map(|vip| vip.ip().to_string()).collect::<BTreeSet<_>>());
    Seen {
        faces,
        doors,
        names,
        redirect: Redirect {
            vips: look.here.vips.clone(),
            doctor: doctored,
            guarded: neighbours::has_iptables_proxy(&look.traces),
            settings: look.settings,
            rp_filter: node::rp_filter(),
            nonlocal: node::nonlocal(),
            listeners,
            services: control.services.clone(),
            status: look.status,
        },
        control,
        kubelet,
        token: credentials.as_ref().ok().and_then(|credentials| credentials.token().map(str::to_owned)),
        trusted: within(FILES, move || node::trusted(&bundle)).await.unwrap_or_default(),
        now: asking.now,
    }
}

async fn credentials(access: Result<&Access, &String>) -> Result<ResolvedCredentials, String> {
    let access = access.map_err(Clone::clone)?;
    let late = |_| format!("the credential plugin did not answer within {:.0} s", PLUGIN.as_secs_f32());
    timeout(PLUGIN, access.credentials()).await.map_err(late)?
}

/// Asks the first apiserver that can be verified: one of them is enough for what they share.
async fn control(faces: &[Face], vips: &BTreeSet<SocketAddr>, asking: &Asking<'_>) -> Control {
    let Ok(credentials) = &asking.credentials else { return Control::default() };
    let verified = faces.iter().rev().find_map(|face| {
        let name = address::verifiable(face, asking).ok()?;
        Some(Server { address: face.address, tls: Some((Arc::new(asking.trust.clone().ok()?), name)) })
    });
    let Some(server) = verified else { return Control::default() };
    let api = Api::new(server, credentials);
    let asked = async {
        tokio::join!(
            api.nonsense(),
            api.nonsense_of_everybody(),
            api.proxies(),
            api.services(),
            api.pods("component", "kube-apiserver"),
            api.pods("k8s-app", "konnectivity-agent"),
            api.get(kubeadm::PATH),
        )
    };
    let Ok((nonsense, everybody, proxies, services, apiservers, agents, kubeadm)) =
        timeout(REVIEWS, asked).await
    else {
        let late = format!("the apiserver did not answer all within {:.0} s", REVIEWS.as_secs_f32());
        return Control {
            nonsense: Some(Err(late.clone())),
            proxies: reviews::none(&late),
            services: Some(Err(late.clone())),
            agents: Some(Err(late)),
            ..Control::default()
        };
    };
    let name = |pod: &serde_json::Value| {
        format!("Pod kube-system/{}", pod["metadata"]["name"].as_str().unwrap_or_default())
    };
    let running = |pod: &&serde_json::Value| pod["status"]["phase"] == "Running";
    let started = apiservers.map(|pods| flags::mirrored(&pods)).unwrap_or_default();
    let known = faces.iter().filter(|face| !vips.contains(&face.address)).count();
    Control {
        all_flags: !started.is_empty() && started.len() >= known,
        started,
        told: kubeadm.ok().and_then(|map| kubeadm::started(&map)),
        nonsense: Some(nonsense),
        everybody: Some(everybody),
        proxies,
        services: Some(services),
        agents: Some(agents.map(|pods| pods.iter().filter(running).map(name).collect())),
    }
}

/// An agent that runs here is one, whether Pods may be listed or not.
async fn local_agents(args: &AuditArgs, control: &mut Control) {
    let proc = args.host_proc.clone();
    let running = within(FILES, move || processes::command_lines(&proc, "proxy-agent")).await;
    let Some(Ok(running)) = running else { return };
    if !running.is_empty() {
        let here = "process proxy-agent on this node".to_owned();
        match &mut control.agents {
            Some(Ok(agents)) => agents.push(here),
            other => *other = Some(Ok(vec![here])),
        }
    }
}
