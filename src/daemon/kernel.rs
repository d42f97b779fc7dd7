//! What this node's kernel tells probes of their connections, and of those of clients.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use crate::conntrack::lookup::OwnConnections;
use crate::conntrack::observe::Observation;
use crate::conntrack::{self, Asker};
use crate::health::{ChallengeOutcome, ClientFlowMonitor, SocketInfo};
use crate::model::types::{Backend, Vip};

/// This node. What its kernel does not tell is no evidence, and no reason not to start.
pub(super) struct OwnKernel(Mutex<Option<OwnConnections>>);

impl OwnKernel {
    pub(super) fn open() -> Self {
        let opened = OwnConnections::open().inspect_err(|error| {
            tracing::debug!(%error, "probes cannot ask the kernel for their connections");
        });
        Self(Mutex::new(opened.ok()))
    }
}

impl SocketInfo for OwnKernel {
    fn last_segment_age(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = connections.as_mut()?.acknowledged(own, peer);
        heard.inspect_err(|error| tracing::debug!(%error, %peer, "ask for a probe's connection")).ok()?
    }
}

/// Clients' own connections, as far as this kernel shows them. Without conntrack's netlink none can be asked.
pub(super) struct ClientFlows(pub(super) Option<Asker>);

impl ClientFlowMonitor for ClientFlows {
    fn watch(&self, backend: Backend) -> io::Result<BoxStream<'static, bool>> {
        let observation = Observation::open(backend)?;
        Ok(stream::unfold(observation, async |mut observation| {
            let heard = observation.heard().await;
            Some((heard.data, observation))
        })
        .boxed())
    }

    fn challenge(&self, backend: Backend, vips: Vec<Vip>) -> BoxFuture<'static, ChallengeOutcome> {
        let asker = self.0.clone();
        async move {
            let Some(asker) = asker else { return ChallengeOutcome::Impossible };
            match asker.ask(backend, vips).await {
                conntrack::Asked::NoFlows => ChallengeOutcome::NoFlows,
                // The connection that is kept to it, and that of the watch.
                conntrack::Asked::Sent { flows: ..=2, own: true } => ChallengeOutcome::OnlyOwn,
                conntrack::Asked::Sent { .. } => ChallengeOutcome::Sent,
                conntrack::Asked::Impossible => ChallengeOutcome::Impossible,
            }
        }
        .boxed()
    }
}
