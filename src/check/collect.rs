//! Observes what the checks judge: this node's kernel, files and daemon, and the API, each with a time limit of its own.
//!
//! In: the arguments of `apivip run`. Out: [`Observations`]. Nothing is changed outside of a network namespace of its own. All
//! apiservers are asked at once, in three steps of limited time: those that this node knows, what one of them publishes and
//! allows, those that it publishes.

mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::api::ApiState;
use super::bypass::{BypassPaths, KINDS};
use super::kernel::{FeatureTrial, KernelSettings};
use super::node::{DaemonSummary, NodeState};
use super::other_programs::ProgramTraces;
use crate::bootstrap::saved_state::StateFile;
use crate::config::{MasqueradeArg, RunArgs, TableOwnerArg};
use crate::dataplane::Host;
use crate::kernel_features;
use crate::kube::review;
use crate::kube::review::AccessReview;
use crate::model::desired::{NodeView, PreferredSource};
use crate::model::health::ProbeOutcome;
use crate::model::sources::LastKnownGood;
use crate::model::types::Vip;
use crate::nftables::socket::NftSocket;
use crate::process::clock::unix_now;
use crate::routes::{Node, links};
use crate::transport::Access;
use crate::transport::readyz;
use crate::transport::readyz::{Inspection, ServerTrust, inspect};
use crate::transport::text::errno_text;

/// How long the kernel may take for each question. It answers in milliseconds, or after modules are loaded.
const KERNEL: Duration = Duration::from_secs(6);
/// How long a daemon, or a disk, may take: each answers at once.
const DAEMON: Duration = Duration::from_millis(1200);
/// How long routes and sockets may take, which do not block.
const ROUTES: Duration = Duration::from_secs(1);

/// Of each step in which apiservers are asked: a lost SYN (1 s) is survived.
const STEP: Duration = Duration::from_millis(2200);
/// Of a step, for names.
const RESOLVE: Duration = Duration::from_millis(900);
/// As many backends as a virtual IP can have.
const MOST: usize = 64;

/// How much is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Everything but the kernel's features, which are not tried.
    Node,
}

/// Everything that was observed.
pub struct Observations {
    pub(super) capabilities: Option<u64>,
    pub(super) trial: FeatureTrial,
    /// How the kernel is set.
    pub settings: KernelSettings,
    /// Other programs.
    pub programs: ProgramTraces,
    pub(super) bypass: BypassPaths,
    /// The API and its servers.
    pub api: ApiState,
    /// The virtual IPs on this node.
    pub node: NodeState,
    /// Those of them by which the API is served.
    pub serving: BTreeSet<SocketAddr>,
    /// The status of the running daemon.
    pub status: Option<Value>,
}

/// Observes what `scope` says. Ends within ten seconds, whatever hangs.
pub async fn observe(args: &RunArgs, scope: Scope) -> Observations {
    let kernel = async {
        match scope {
            Scope::All => within(KERNEL, || kernel_features::run(KERNEL - Duration::from_secs(1))).await,
            Scope::Node => None,
        }
    };
    let rules = within(KERNEL, || NftSocket::open().and_then(|mut socket| socket.inventory()));
    let devices = within(KERNEL, links::links);
    let files = within(KERNEL, host::files);
    let pod_links = within(KERNEL, || links::links_in_other_netns(KINDS, KERNEL / 2));
    let local = async {
        let (daemon, state) = tokio::join!(daemon(args), saved(args));
        let local = LocalSources { daemon, state };
        let remote = observe_api(args, &local).await;
        (local, remote)
    };
    let (kernel, rules, devices, files, pod_links, (local, remote)) =
        tokio::join!(kernel, rules, devices, files, pod_links, local);
    let trial = match kernel {
        Some(Ok(tried)) => Ok(tried),
        Some(Err(error)) => Err(errno_text(&error)),
        None => Ok(Vec::new()),
    };
    let rules = rules.map(|rules| rules.map_err(|error| host::chain(&error)));
    let devices = devices.map(|devices| devices.map_err(|error| host::chain(&error)));
    let files = files.unwrap_or_default();
    let mut settings = files.kernel_settings;
    if let Some(Ok(all)) = &devices {
        let bridges = all.iter().filter(|link| link.kind == "bridge");
        settings.bridges = Some(bridges.map(|link| link.name.clone()).collect());
    }
    let RemoteState { api, mut vips, mut serving, backends } = remote;
    vips.extend(local.vips());
    serving.extend(local.serving());
    let is_vip = |address: &SocketAddr| vips.iter().any(|vip| vip.ip() == address.ip());
    let apiservers: BTreeSet<_> = backends.into_iter().filter(|backend| !is_vip(backend)).collect();
    let backends: BTreeSet<_> = apiservers.iter().map(SocketAddr::ip).collect();
    let addresses: BTreeSet<_> = vips.iter().map(SocketAddr::ip).collect();
    let routes = timeout(ROUTES, async {
        let all = addresses.union(&backends).copied().collect();
        Node::open()?.view(addresses, all).await
    });
    let to_dial: Vec<SocketAddr> = vips.iter().copied().collect();
    let dialled = within(ROUTES, move || {
        to_dial.into_iter().map(|vip| (vip, kernel_features::peer_of(vip))).collect::<Vec<_>>()
    });
    let (routes, dialled) = tokio::join!(routes, dialled);
    let routes = routes.ok().map(|view| view.map_err(|error| host::chain(&error)));
    if let Some(Ok(view)) = &routes {
        settings.bridges_to_apiservers = bridges_to(view, &backends, settings.bridges.as_deref());
    }
    Observations {
        capabilities: crate::process::privileges::effective_set().ok(),
        trial,
        settings,
        programs: ProgramTraces {
            rules: rules.clone(),
            links: devices.clone(),
            legacy: files.legacy_tables,
            ipvs: files.ipvs,
            bpf: files.bpf,
            dialled: dialled.unwrap_or_default(),
            apiservers,
            forwards: matches!(
                &local.daemon,
                Some(Ok(Some(status))) if status["dataplane"]["in_use"] == "forwarder"
            ),
        },
        bypass: BypassPaths {
            virtual_functions: files
                .virtual_functions
                .map(|found| host::checked_virtual_functions(found, devices.as_ref())),
            elsewhere: pod_links.map(|found| found.map_err(|error| errno_text(&error))),
            cards: files.cards,
            links: devices,
            rules: rules.clone(),
        },
        api,
        node: NodeState {
            run_dir: args.run_dir.clone(),
            state_dir: args.bootstrap.state_dir.clone(),
            service: args.table.service.clone(),
            vips,
            backends,
            routes,
            never_masquerade: args.table.masquerade == MasqueradeArg::Never,
            daemon: local
                .daemon
                .as_ref()
                .map(|daemon| daemon.clone().map(|status| status.as_ref().map(daemon_summary))),
            rules,
            plain: args.table_owner == TableOwnerArg::Off,
            state: local.state.as_ref().map(|state| state.clone().map(|good| good.is_some())),
        },
        serving,
        status: local.daemon.and_then(|daemon| daemon.ok().flatten()),
    }
}

/// The bridges by which this node reaches any of these.
fn bridges_to(view: &NodeView, backends: &BTreeSet<IpAddr>, bridges: Option<&[String]>) -> Vec<String> {
    let interfaces = backends.iter().filter_map(|backend| match view.preferred.get(backend) {
        Some(PreferredSource::Address(source)) => Some(&source.interfaces),
        _ => None,
    });
    let interfaces: BTreeSet<String> = interfaces.flatten().map(ToString::to_string).collect();
    bridges.unwrap_or_default().iter().filter(|bridge| interfaces.contains(*bridge)).cloned().collect()
}

/// The result of a blocking call on a thread of its own; `None`: not within `limit`.
pub async fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(limit, spawn_blocking(call)).await.ok()?.ok()
}

/// The status of the running daemon, and the state that an earlier one saved.
struct LocalSources {
    daemon: Option<Result<Option<Value>, String>>,
    state: Option<Result<Option<LastKnownGood>, String>>,
}

impl LocalSources {
    fn saved(&self) -> Option<&LastKnownGood> {
        self.state.as_ref()?.as_ref().ok()?.as_ref()
    }

    fn frontends(&self) -> Vec<&Value> {
        let Some(Ok(Some(status))) = &self.daemon else { return Vec::new() };
        status["frontends"].as_array().into_iter().flatten().collect()
    }

    fn vips(&self) -> BTreeSet<SocketAddr> {
        let saved = self.saved().into_iter().flat_map(|good| &good.frontends).map(|frontend| frontend.vip);
        saved.chain(self.frontends().iter().filter_map(|f| address(&f["vip"]))).collect()
    }

    /// Virtual IPs and ports by which the API is served.
    fn serving(&self) -> BTreeSet<SocketAddr> {
        let saved = self.saved().into_iter().flat_map(|good| &good.frontends);
        let saved = saved.filter(|f| serves_api(&f.port_name)).map(|f| f.vip);
        let running = self.frontends().into_iter();
        let running = running.filter(|f| serves_api(f["port_name"].as_str().unwrap_or_default()));
        saved.chain(running.filter_map(|f| address(&f["vip"]))).collect()
    }

    /// Apiservers of the port that serves the API: the others answer to something else.
    fn backends(&self) -> BTreeSet<SocketAddr> {
        let saved = self.saved().into_iter().flat_map(|good| &good.frontends);
        let saved = saved.filter(|f| serves_api(&f.port_name)).flat_map(|f| &f.backends).map(|b| b.address);
        let frontends = self.frontends().into_iter();
        let frontends = frontends.filter(|f| serves_api(f["port_name"].as_str().unwrap_or_default()));
        let running = frontends.flat_map(|f| f["backends"].as_array().into_iter().flatten());
        saved.chain(running.filter_map(|backend| address(&backend["address"]))).collect()
    }
}

/// The port of the `kubernetes` Service has this name; one that has no name is the only one.
fn serves_api(port_name: &str) -> bool {
    matches!(port_name, "https" | "")
}

fn address(value: &Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}

async fn daemon(args: &RunArgs) -> Option<Result<Option<Value>, String>> {
    let folder = args.run_dir.clone();
    within(DAEMON, move || host::daemon(&folder)).await
}

async fn saved(args: &RunArgs) -> Option<Result<Option<LastKnownGood>, String>> {
    let file = StateFile::new(&args.bootstrap.state_dir, &args.table.service);
    within(DAEMON, move || file.load().map_err(|error| error.to_string())).await
}

fn daemon_summary(status: &Value) -> DaemonSummary {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    DaemonSummary {
        pid: status["pid"].as_u64().unwrap_or(0),
        phase: text("/phase"),
        summary: text("/summary"),
        in_use: text("/dataplane/in_use"),
        // Of a version that does not say, any reason was one of refused rules.
        fallback_active: status["dataplane"]["fallback_active"].as_bool().unwrap_or(true),
    }
}

/// What was found out.
pub(super) struct RemoteState {
    pub api: ApiState,
    pub vips: BTreeSet<Vip>,
    /// Those of them by which the API is served.
    pub serving: BTreeSet<Vip>,
    pub backends: BTreeSet<SocketAddr>,
}

async fn observe_api(args: &RunArgs, local: &LocalSources) -> RemoteState {
    let begin = Instant::now();
    let configured = args.bootstrap.configured(args.table.allow_loopback_endpoints).unwrap_or_default();
    let mut vips: BTreeSet<Vip> = configured.vips.iter().copied().collect();
    let mut serving = vips.clone();
    vips.extend(local.vips());
    let configured_access = access(args).await;
    let access = configured_access.as_ref().and_then(|access| access.as_ref().ok());
    let trust = access.map(|access| ServerTrust::new(access, args.health.probe_server_name.as_deref()));
    let mut api = ApiState {
        name: trust.iter().flatten().map(|trust| trust.name().to_owned()).next().unwrap_or_default(),
        validities: access.map(Access::validities).unwrap_or_default(),
        service: args.table.service.clone(),
        kubeconfig: args.kubeconfig.as_ref().map(|file| file.display().to_string()),
        access: configured_access.as_ref().map(|access| match access {
            Ok(access) => Ok((access.source().to_owned(), access.warnings().to_vec())),
            Err(error) => Err(error.clone()),
        }),
        ..ApiState::default()
    };
    let trust = match trust {
        Some(Err(error)) => {
            api.access = Some(Err(error));
            None
        }
        Some(Ok(trust)) => Some(trust),
        None => None,
    };

    let mut examinations = Examinations { trust, found: BTreeMap::new() };
    let mut addresses = local.backends();
    addresses.extend(configured.seeds.iter().filter_map(|seed| seed.address()));
    let server = access.map(Access::server);
    let mut names: BTreeSet<(String, u16)> = configured
        .seeds
        .iter()
        .filter(|seed| seed.address().is_none())
        .map(|seed| (seed.host().to_owned(), seed.port()))
        .collect();
    names.extend(server.map(|server| (server.host.clone(), server.port)));
    let (resolved, ()) = tokio::join!(resolve(&names), examinations.examine_all(&addresses, STEP));
    let mut vip_addresses = BTreeSet::new();
    let mut others = BTreeSet::new();
    for ((host, _), outcome) in names.into_iter().zip(resolved) {
        match outcome {
            Ok(found) => {
                let is_vip = |address: &SocketAddr| vips.iter().any(|vip| vip.ip() == address.ip());
                let (of_vips, rest) = found.into_iter().partition::<BTreeSet<_>, _>(is_vip);
                vip_addresses.extend(of_vips);
                others.extend(rest);
            }
            Err(error) => api.unresolved.push((host, error)),
        }
    }
    // As the daemon does: through the virtual IP only where there is no other address.
    if addresses.is_empty() && others.is_empty() {
        others = vip_addresses;
    }
    examinations.examine_all(&others, STEP.saturating_sub(begin.elapsed()).max(STEP - RESOLVE)).await;

    if let (Some(access), Some(address)) = (access, examinations.best()) {
        let asked =
            review::review_access(access, address, &args.table.service, args.table.snapshot_options());
        api.audience = Some(match timeout(STEP, asked).await {
            Ok(answer) => answer.map(|audience| (address, audience)),
            Err(_) => Err(format!("{address} did not answer within {:.1} s", STEP.as_secs_f32())),
        });
    }
    if let Some(Ok((_, AccessReview { snapshot: Ok(snapshot), .. }))) = &api.audience {
        vips.extend(snapshot.frontends.iter().map(|frontend| frontend.vip));
        let main = snapshot.frontends.iter().filter(|frontend| serves_api(&frontend.port_name));
        serving.extend(main.clone().map(|frontend| frontend.vip));
        let published = main.flat_map(|frontend| &frontend.backends).copied().collect();
        examinations.examine_all(&published, STEP).await;
    }
    let backends = examinations.found.keys().copied().collect();
    api.examined = examinations.found.into_values().collect();
    api.now = unix_now().cast_signed();
    RemoteState { api, vips, serving, backends }
}

/// The access to the API that the daemon has, or why it has none; `None`: none is configured.
pub async fn access(args: &RunArgs) -> Option<Result<Access, String>> {
    if args.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return None;
    }
    let loaded = crate::transport::load(args.kubeconfig.as_deref(), args.context.as_deref());
    Some(loaded.map_err(|error| error.to_string()))
}

/// The apiservers that were examined so far.
struct Examinations {
    trust: Option<ServerTrust>,
    found: BTreeMap<SocketAddr, Inspection>,
}

impl Examinations {
    async fn examine_all(&mut self, addresses: &BTreeSet<SocketAddr>, limit: Duration) {
        let room = MOST.saturating_sub(self.found.len());
        let new = addresses.iter().filter(|address| !self.found.contains_key(address)).take(room);
        let pending = new.map(|address| inspect(*address, self.trust.clone(), limit));
        let examined = join_all(pending).await;
        self.found.extend(examined.into_iter().map(|examined| (examined.address, examined)));
    }

    /// The apiserver to ask further: a ready one, or else one that is alive and verified.
    fn best(&self) -> Option<SocketAddr> {
        let is_ready = |examined: &&Inspection| matches!(&examined.answered, Some(Ok(ready)) if readyz::outcome(ready.status) == ProbeOutcome::Ready);
        let verified = |examined: &&Inspection| matches!(&examined.secured, Some(Ok(_)));
        let all = || self.found.values();
        all().find(is_ready).or_else(|| all().find(verified)).map(|examined| examined.address)
    }
}

async fn resolve(names: &BTreeSet<(String, u16)>) -> Vec<Result<Vec<SocketAddr>, String>> {
    join_all(names.iter().map(|(host, port)| async move {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, *port)]);
        }
        match timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), *port))).await {
            Ok(Ok(found)) => Ok(found.collect()),
            Ok(Err(error)) => Err(errno_text(&error)),
            Err(_) => Err(format!("no answer from the name server within {:.1} s", RESOLVE.as_secs_f32())),
        }
    }))
    .await
}
