//! What this node's kernel tells probes of their connections, and of those of clients.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use crate::conntrack::capture::Observation;
use crate::conntrack::lookup::OwnConnections;
use crate::conntrack::{self, PathChallenger};
use crate::health::{Asked, ClientPath, Kernel};
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

impl Kernel for OwnKernel {
    fn heard(&self, own: SocketAddr, peer: SocketAddr) -> Option<Duration> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = connections.as_mut()?.last_ack(own, peer);
        heard.inspect_err(|error| tracing::debug!(%error, %peer, "ask for a probe's connection")).ok()?
    }
}

/// Clients' own connections, as far as this kernel shows them. Without conntrack's netlink none can be asked.
pub(super) struct ClientFlows(pub(super) Option<PathChallenger>);

impl ClientPath for ClientFlows {
    fn watch(&self, backend: Backend) -> io::Result<BoxStream<'static, bool>> {
        let observation = Observation::open(backend)?;
        Ok(stream::unfold(observation, async |mut observation| {
            let heard = observation.next_segment().await;
            Some((heard.data, observation))
        })
        .boxed())
    }

    fn ask(&self, backend: Backend, vips: Vec<Vip>) -> BoxFuture<'static, Asked> {
        let challenger = self.0.clone();
        async move {
            let Some(challenger) = challenger else { return Asked::Impossible };
            match challenger.challenge(backend, vips).await {
                conntrack::ChallengeOutcome::NoFlows => Asked::NoFlows,
                // The connection that is kept to it, and that of the watch.
                conntrack::ChallengeOutcome::Sent { flows: ..=2, own: true } => Asked::OnlyOwn,
                conntrack::ChallengeOutcome::Sent { .. } => Asked::Sent,
                conntrack::ChallengeOutcome::Impossible => Asked::Impossible,
            }
        }
        .boxed()
    }
}
