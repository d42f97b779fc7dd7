//! Looks at the node and at the API, each question with a limit of its own.

mod local;
mod remote;

pub(super) use remote::load;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::api::Api;
use super::bypass::{KINDS, Ways};
use super::kernel::Trial;
use super::neighbours::Traces;
use super::node::{Daemon, Here};
use super::settings::Settings;
use super::{AskDaemon, is_plain};
use crate::bootstrap::state::StateFile;
use crate::config::{MasqueradeArg, RunArgs};
use crate::dataplane::Host;
use crate::kernel_features;
use crate::kube::plain;
use crate::model::desired::{NodeView, PreferredSource};
use crate::model::sources::LastKnownGood;
use crate::nftables::socket::NftSocket;
use crate::routes::Node;
use crate::routes::{links, other_netns};

/// How long the kernel may take for each question. It answers in milliseconds, or after modules are loaded.
const KERNEL: Duration = Duration::from_secs(6);
/// How long a daemon, or a disk, may take: each answers at once.
const DAEMON: Duration = Duration::from_millis(1200);
/// How long routes and sockets may take, which wait for nobody.
const ROUTES: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// What runs here, without trying what the kernel can.
    Node,
}

/// Everything that was seen.
pub struct Seen {
    pub(super) capabilities: Option<u64>,
    pub(super) trial: Trial,
    /// How the kernel is set.
    pub settings: Settings,
    /// Other programs.
    pub traces: Traces,
    pub(super) ways: Ways,
    /// The API and its servers.
    pub api: Api,
    /// The virtual IPs on this node.
    pub here: Here,
    /// Those of them by which the API is served.
    pub serving: BTreeSet<SocketAddr>,
    /// The status of the running daemon.
    pub status: Option<Value>,
}

pub(super) async fn collect(args: &RunArgs, ask: AskDaemon, scope: Scope) -> Seen {
    let kernel = async {
        match scope {
            Scope::All => within(KERNEL, || kernel_features::run(KERNEL - Duration::from_secs(1))).await,
            Scope::Node => None,
        }
    };
    let rules = within(KERNEL, || NftSocket::open().and_then(|mut socket| socket.survey()));
    let devices = within(KERNEL, links::links);
    let files = within(KERNEL, local::files);
    let elsewhere = within(KERNEL, || other_netns::elsewhere(KINDS, KERNEL / 2));
    let known = async {
        let (daemon, state) = tokio::join!(daemon(args, ask), saved(args));
        let known = Known { daemon, state };
        let remote = remote::api(args, &known).await;
        (known, remote)
    };
    let (kernel, rules, devices, files, elsewhere, (known, remote)) =
        tokio::join!(kernel, rules, devices, files, elsewhere, known);
    let trial = match kernel {
        Some(Ok(tried)) => Ok(tried),
        Some(Err(error)) => Err(plain(&error)),
        None => Ok(Vec::new()),
    };
    let rules = rules.map(|rules| rules.map_err(|error| local::chain(&error)));
    let devices = devices.map(|devices| devices.map_err(|error| local::chain(&error)));
    let files = files.unwrap_or_default();
    let mut settings = files.settings;
    if let Some(Ok(all)) = &devices {
        let bridges = all.iter().filter(|link| link.kind == "bridge");
        settings.bridges = Some(bridges.map(|link| link.name.clone()).collect());
    }
    let remote::Remote { api, mut vips, mut serving, backends } = remote;
    vips.extend(known.vips());
    serving.extend(known.serving());
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
    let routes = routes.ok().map(|view| view.map_err(|error| local::chain(&error)));
    if let Some(Ok(view)) = &routes {
        settings.bridges_to_apiservers = bridges_to(view, &backends, settings.bridges.as_deref());
    }
    Seen {
        capabilities: crate::process::privileges::effective_set().ok(),
        trial,
        settings,
        traces: Traces {
            rules: rules.clone(),
            links: devices.clone(),
            legacy: files.legacy,
            ipvs: files.ipvs,
            bpf: files.bpf,
            dialled: dialled.unwrap_or_default(),
            apiservers,
            forwards: matches!(
                &known.daemon,
                Some(Ok(Some(status))) if status["dataplane"]["in_use"] == "forwarder"
            ),
        },
        ways: Ways {
            virtual_functions: files.virtual_functions.map(|found| local::believe(found, devices.as_ref())),
            elsewhere: elsewhere.map(|found| found.map_err(|error| plain(&error))),
            cards: files.cards,
            links: devices,
            rules: rules.clone(),
        },
        api,
        here: Here {
            run_dir: args.run_dir.clone(),
            state_dir: args.boot.state_dir.clone(),
            service: args.table.service.clone(),
            vips,
            backends,
            routes,
            never_masquerade: args.table.masquerade == MasqueradeArg::Never,
            daemon: known
                .daemon
                .as_ref()
                .map(|daemon| daemon.clone().map(|status| status.as_ref().map(of_status))),
            rules,
            plain: is_plain(args),
            state: known.state.as_ref().map(|state| state.clone().map(|good| good.is_some())),
        },
        serving,
        status: known.daemon.and_then(|daemon| daemon.ok().flatten()),
    }
}

/// The bridges by which this node reaches any of these.
fn bridges_to(view: &NodeView, backends: &BTreeSet<IpAddr>, bridges: Option<&[String]>) -> Vec<String> {
    let ways = backends.iter().filter_map(|backend| match view.preferred.get(backend) {
        Some(PreferredSource::Address(source)) => Some(&source.interfaces),
        _ => None,
    });
    let ways: BTreeSet<String> = ways.flatten().map(ToString::to_string).collect();
    bridges.unwrap_or_default().iter().filter(|bridge| ways.contains(*bridge)).cloned().collect()
}

/// Looks on a thread of its own; `None`: not in time.
pub async fn within<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(limit, spawn_blocking(look)).await.ok()?.ok()
}

/// What a daemon and an earlier one know.
struct Known {
    daemon: Option<Result<Option<Value>, String>>,
    state: Option<Result<Option<LastKnownGood>, String>>,
}

impl Known {
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

async fn daemon(args: &RunArgs, ask: AskDaemon) -> Option<Result<Option<Value>, String>> {
    let folder = args.run_dir.clone();
    within(DAEMON, move || local::daemon(&folder, ask)).await
}

async fn saved(args: &RunArgs) -> Option<Result<Option<LastKnownGood>, String>> {
    let file = StateFile::new(&args.boot.state_dir, &args.table.service);
    within(DAEMON, move || file.load().map_err(|error| error.to_string())).await
}

fn of_status(status: &Value) -> Daemon {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Daemon {
        pid: status["pid"].as_u64().unwrap_or(0),
        phase: text("/phase"),
        summary: text("/summary"),
        in_use: text("/dataplane/in_use"),
        // Of a version that does not say, any reason was one of refused rules.
        stands_in: status["dataplane"]["stands_in"].as_bool().unwrap_or(true),
    }
}
