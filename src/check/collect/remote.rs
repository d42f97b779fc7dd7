//! What the API and its servers say. All servers are asked at once, in three steps of which none takes longer than its
//! limit: those that are known here, what one of them publishes and allows, those that are known from there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Known;
use crate::check::api::Api;
use crate::config::RunArgs;
use crate::kube::examine::{Examined, Trust, examine};
use crate::kube::review::{self, Audience};
use crate::kube::{Access, plain};
use crate::model::health::ProbeOutcome;
use crate::model::types::Vip;
use crate::process::clock::unix_now;
use crate::transport::readyz;

/// Of each step: a lost SYN (1 s) is survived.
const STEP: Duration = Duration::from_millis(2200);
/// Of that, for names.
const RESOLVE: Duration = Duration::from_millis(900);
/// As many backends as a virtual IP can have.
const MOST: usize = 64;

/// What was found out.
pub(super) struct Remote {
    pub api: Api,
    pub vips: BTreeSet<Vip>,
    /// Those of them by which the API is served.
    pub serving: BTreeSet<Vip>,
    pub backends: BTreeSet<SocketAddr>,
}

pub(super) async fn api(args: &RunArgs, known: &Known) -> Remote {
    let begin = Instant::now();
    let configured = args.boot.configured(args.table.allow_loopback_endpoints).unwrap_or_default();
    let mut vips: BTreeSet<Vip> = configured.vips.iter().copied().collect();
    let mut serving = vips.clone();
    vips.extend(known.vips());
    let loaded = load(args).await;
    let access = loaded.as_ref().and_then(|loaded| loaded.as_ref().ok());
    let trust = access.map(|access| Trust::new(access, args.health.probe_server_name.as_deref()));
    let mut api = Api {
        name: trust.iter().flatten().map(|trust| trust.name().to_owned()).next().unwrap_or_default(),
        lifetimes: access.map(Access::lifetimes).unwrap_or_default(),
        service: args.table.service.clone(),
        kubeconfig: args.kubeconfig.as_ref().map(|file| file.display().to_string()),
        access: loaded.as_ref().map(|loaded| match loaded {
            Ok(access) => Ok((access.source().to_owned(), access.warnings().to_vec())),
            Err(error) => Err(error.clone()),
        }),
        ..Api::default()
    };
    let trust = match trust {
        Some(Err(error)) => {
            api.access = Some(Err(error));
            None
        }
        Some(Ok(trust)) => Some(trust),
        None => None,
    };

    let mut looked = Looked { trust, found: BTreeMap::new() };
    let mut addresses = known.backends();
    addresses.extend(configured.seeds.iter().filter_map(|seed| seed.address()));
    let server = access.map(Access::server);
    let mut names: BTreeSet<(String, u16)> = configured
        .seeds
        .iter()
        .filter(|seed| seed.address().is_none())
        .map(|seed| (seed.host().to_owned(), seed.port()))
        .collect();
    names.extend(server.map(|server| (server.host.clone(), server.port)));
    let (resolved, ()) = tokio::join!(resolve(&names), looked.look(&addresses, STEP));
    let mut through_vip = BTreeSet::new();
    let mut others = BTreeSet::new();
    for ((host, _), outcome) in names.into_iter().zip(resolved) {
        match outcome {
            Ok(found) => {
                let is_vip = |address: &SocketAddr| vips.iter().any(|vip| vip.ip() == address.ip());
                let (theirs, rest) = found.into_iter().partition::<BTreeSet<_>, _>(is_vip);
                through_vip.extend(theirs);
                others.extend(rest);
            }
            Err(error) => api.unresolved.push((host, error)),
        }
    }
    // As the daemon does: the virtual IP only where there is no other way.
    if addresses.is_empty() && others.is_empty() {
        others = through_vip;
    }
    looked.look(&others, STEP.saturating_sub(begin.elapsed()).max(STEP - RESOLVE)).await;

    if let (Some(access), Some(address)) = (access, looked.best()) {
        let asked = review::ask(access, address, &args.table.service, args.table.snapshot_options());
        api.audience = Some(match timeout(STEP, asked).await {
            Ok(answer) => answer.map(|audience| (address, audience)),
            Err(_) => Err(format!("{address} did not answer within {:.1} s", STEP.as_secs_f32())),
        });
    }
    if let Some(Ok((_, Audience { snapshot: Ok(snapshot), .. }))) = &api.audience {
        vips.extend(snapshot.frontends.iter().map(|frontend| frontend.vip));
        let main = snapshot.frontends.iter().filter(|frontend| super::serves_api(&frontend.port_name));
        serving.extend(main.clone().map(|frontend| frontend.vip));
        let published = main.flat_map(|frontend| &frontend.backends).copied().collect();
        looked.look(&published, STEP).await;
    }
    let backends = looked.found.keys().copied().collect();
    api.examined = looked.found.into_values().collect();
    api.now = unix_now().cast_signed();
    Remote { api, vips, serving, backends }
}

/// `None`: nothing is configured.
pub(crate) async fn load(args: &RunArgs) -> Option<Result<Access, String>> {
    if args.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return None;
    }
    let loaded = crate::transport::access::load(args.kubeconfig.as_deref(), args.context.as_deref());
    Some(loaded.map_err(|error| error.to_string()))
}

/// What was looked at so far.
struct Looked {
    trust: Option<Trust>,
    found: BTreeMap<SocketAddr, Examined>,
}

impl Looked {
    async fn look(&mut self, addresses: &BTreeSet<SocketAddr>, limit: Duration) {
        let room = MOST.saturating_sub(self.found.len());
        let new = addresses.iter().filter(|address| !self.found.contains_key(address)).take(room);
        let looks = new.map(|address| examine(*address, self.trust.clone(), limit));
        let examined = join_all(looks).await;
        self.found.extend(examined.into_iter().map(|examined| (examined.address, examined)));
    }

    /// Whom to ask further: a ready one, or else one that is alive and verified.
    fn best(&self) -> Option<SocketAddr> {
        let is_ready = |examined: &&Examined| matches!(&examined.answered, Some(Ok(ready)) if readyz::outcome(ready.status) == ProbeOutcome::Ready);
        let verified = |examined: &&Examined| matches!(&examined.secured, Some(Ok(_)));
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
            Ok(Err(error)) => Err(plain(&error)),
            Err(_) => Err(format!("no answer from the name server within {:.1} s", RESOLVE.as_secs_f32())),
        }
    }))
    .await
}
