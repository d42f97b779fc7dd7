//! Observes what the audit judges, each question with a time limit of its own.
//!
//! In: the arguments. Out: [`Observations`].

mod apiserver;
mod host;
mod kubelet;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use self::apiserver::{ApiClient, ProbeContext};
use crate::audit::apiserver::{AccessProbe, TlsProbe};
use crate::audit::control_plane::ControlPlane;
use crate::audit::http::Server;
use crate::audit::kubelet::KubeletProbe;
use crate::audit::redirect::VipRedirect;
use crate::check::{self, Scope, node, other_programs, within};
use crate::config::AuditArgs;
use crate::process::clock::unix_now;
use crate::transport::{Access, ResolvedCredentials, TLS_NAME};

/// All that is read from files.
const FILES: Duration = Duration::from_secs(3);
/// A credential plugin.
const PLUGIN: Duration = Duration::from_secs(8);
/// All that one apiserver is asked about the control plane.
const REVIEWS: Duration = Duration::from_secs(12);

/// Everything that was observed.
pub(super) struct Observations {
    /// Each address of the API, the virtual IPs first.
    pub tls_probes: Vec<TlsProbe>,
    pub access_probes: Vec<AccessProbe>,
    /// The names that clients dial.
    pub names: Vec<String>,
    pub control_plane: ControlPlane,
    pub kubelet: KubeletProbe,
    pub redirect: VipRedirect,
    /// The token of the node's credentials.
    pub token: Option<String>,
    /// The subjects of the CA bundle, and those of them that the host's system trusts too.
    pub trusted: (Vec<String>, Option<Vec<String>>),
    /// Seconds since 1970.
    pub now: i64,
}

pub(super) async fn observe(args: &AuditArgs) -> Observations {
    let local = args.clone();
    let flags = within(FILES, move || host::apiservers_here(&local));
    let (observed, access, flags) =
        tokio::join!(check::observe(&args.run, Scope::Node), check::access(&args.run), flags);
    let access =
        access.unwrap_or_else(|| Err("not running in a Pod, and --kubeconfig is not set".to_owned()));
    let credentials = credentials(access.as_ref()).await;
    let roots = access.as_ref().map(|access| access.roots().to_vec()).unwrap_or_default();
    let name = access.as_ref().map_or(TLS_NAME, |access| access.tls_name());
    let name = args.run.health.probe_server_name.as_deref().unwrap_or(name);
    let context = ProbeContext {
        name,
        roots: &roots,
        trust: access.as_ref().map_err(Clone::clone).and_then(Access::trust),
        credentials: credentials.as_ref().map_err(Clone::clone),
        now: unix_now().cast_signed(),
    };

    let vips = &observed.serving;
    let backends = observed.api.examined.iter().map(|examined| examined.address);
    let addresses: Vec<SocketAddr> =
        vips.iter().copied().chain(backends.filter(|backend| !vips.contains(backend))).collect();
    let tls_probes = join_all(addresses.iter().map(|address| apiserver::probe_tls(*address, &context))).await;
    let access_probes = tls_probes
        .iter()
        .map(|probe| apiserver::probe_access(probe, &context, vips.contains(&probe.address)));
    let shown = context.credentials.clone().ok();
    let (access_probes, mut control_plane, kubelet) = tokio::join!(
        join_all(access_probes),
        control_plane(&tls_probes, vips, &context),
        kubelet::probe(args, shown, &roots),
    );
    // What this host has is the nearest, and comes first.
    let flags = flags.unwrap_or_default();
    // A static Pod's file is root's alone; a process may call itself by any name.
    let alone = tls_probes.len() <= vips.len() + 1 && flags.is_by_manifest;
    control_plane.all_flags |= alone;
    control_plane.add_local(flags.found);
    local_agents(args, &mut control_plane).await;

    let (listening, proc) = (observed.node.vips.clone(), args.host_proc.clone());
    let listeners = within(FILES, move || host::listeners(&listening, &proc)).await;
    let mut node_checks = other_programs::findings(&observed.programs);
    node_checks.extend(node::findings(&observed.node));
    let bundle = roots.clone();
    let mut names = vec![TLS_NAME.to_owned()];
    names.extend(vips.iter().map(|vip| vip.ip().to_string()).collect::<BTreeSet<_>>());
    Observations {
        tls_probes,
        access_probes,
        names,
        redirect: VipRedirect {
            vips: observed.node.vips.clone(),
            node_checks,
            guarded: other_programs::has_iptables_proxy(&observed.programs),
            settings: observed.settings,
            rp_filter: host::rp_filter(),
            nonlocal: host::nonlocal_bind(),
            listeners,
            services: control_plane.services.clone(),
            status: observed.status,
        },
        control_plane,
        kubelet,
        token: credentials.as_ref().ok().and_then(|credentials| credentials.token().map(str::to_owned)),
        trusted: within(FILES, move || host::system_trust(&bundle)).await.unwrap_or_default(),
        now: context.now,
    }
}

async fn credentials(access: Result<&Access, &String>) -> Result<ResolvedCredentials, String> {
    let access = access.map_err(Clone::clone)?;
    let late = |_| format!("the credential plugin did not answer within {:.0} s", PLUGIN.as_secs_f32());
    timeout(PLUGIN, access.credentials()).await.map_err(late)?
}

/// Asks the first apiserver that can be verified: one of them is enough for what they share.
async fn control_plane(
    tls_probes: &[TlsProbe],
    vips: &BTreeSet<SocketAddr>,
    context: &ProbeContext<'_>,
) -> ControlPlane {
    let Ok(credentials) = &context.credentials else { return ControlPlane::default() };
    let verified = tls_probes.iter().rev().find_map(|probe| {
        let name = apiserver::verifiable(probe, context).ok()?;
        Some(Server { address: probe.address, tls: Some((Arc::new(context.trust.clone().ok()?), name)) })
    });
    let Some(server) = verified else { return ControlPlane::default() };
    let api = ApiClient::new(server, credentials);
    let asked = async {
        tokio::join!(
            api.nonexistent(),
            api.nonexistent_for_everybody(),
            api.proxies(),
            api.services(),
            api.pods("component", "kube-apiserver"),
            api.pods("k8s-app", "konnectivity-agent"),
            api.get(host::KUBEADM_CONFIG),
        )
    };
    let Ok((nonexistent, everybody, proxies, services, apiservers, agents, kubeadm)) =
        timeout(REVIEWS, asked).await
    else {
        let late =
            format!("the API server did not answer all requests within {:.0} s", REVIEWS.as_secs_f32());
        return ControlPlane {
            nonexistent: Some(Err(late.clone())),
            proxies: apiserver::no_reviews(&late),
            services: Some(Err(late.clone())),
            agents: Some(Err(late)),
            ..ControlPlane::default()
        };
    };
    let name = |pod: &serde_json::Value| {
        format!("Pod kube-system/{}", pod["metadata"]["name"].as_str().unwrap_or_default())
    };
    let running = |pod: &&serde_json::Value| pod["status"]["phase"] == "Running";
    let apiservers = apiservers.map(|pods| host::of_mirror_pods(&pods)).unwrap_or_default();
    let known = tls_probes.iter().filter(|probe| !vips.contains(&probe.address)).count();
    ControlPlane {
        all_flags: !apiservers.is_empty() && apiservers.len() >= known,
        apiservers,
        kubeadm: kubeadm.ok().and_then(|map| host::of_kubeadm(&map)),
        nonexistent: Some(nonexistent),
        everybody: Some(everybody),
        proxies,
        services: Some(services),
        agents: Some(agents.map(|pods| pods.iter().filter(running).map(name).collect())),
    }
}

/// An agent that runs here is one, whether Pods may be listed or not.
async fn local_agents(args: &AuditArgs, control_plane: &mut ControlPlane) {
    let proc = args.host_proc.clone();
    let running = within(FILES, move || host::command_lines(&proc, "proxy-agent")).await;
    let Some(Ok(running)) = running else { return };
    if !running.is_empty() {
        let here = "process proxy-agent on this node".to_owned();
        match &mut control_plane.agents {
            Some(Ok(agents)) => agents.push(here),
            other => *other = Some(Ok(vec![here])),
        }
    }
}
