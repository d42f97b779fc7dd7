//! What open connections have carried, for whoever asks: the kernel is asked at most once in a second, on a thread where
//! that may block.
//!
//! In: what is programmed. Out: [`Traffic`], or nothing where conntrack does not say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::conntrack::lookup;
use crate::model::desired::DesiredState;
use crate::model::traffic::Traffic;

/// An answer is good for so long: a busy conntrack takes tens of milliseconds, and many may ask.
const FRESH: Duration = Duration::from_secs(1);
/// A status comes rather without than late.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(super) struct Meter {
    latest: Mutex<Option<(Instant, Option<Arc<Traffic>>)>>,
}

impl Meter {
    /// What goes through the rules of `state`, at most a second ago.
    pub async fn read(&self, state: &DesiredState) -> Option<Arc<Traffic>> {
        let mut latest = self.latest.lock().await;
        if let Some((at, traffic)) = latest.as_ref()
            && at.elapsed() < FRESH
        {
            return traffic.clone();
        }
        let wanted: BTreeSet<_> = state
            .frontends
            .iter()
            .flat_map(|f| f.backends.iter().chain(&f.dead).map(|backend| (f.vip, backend.port())))
            .collect();
        let traffic = match timeout(PATIENCE, spawn_blocking(move || lookup::traffic(&wanted))).await {
            Ok(Ok(Ok(traffic))) => Some(Arc::new(traffic)),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "ask conntrack what connections have carried");
                None
            }
            Ok(Err(_)) => None,
            Err(_) => {
                tracing::debug!("conntrack does not say in time what connections have carried");
                None
            }
        };
        *latest = Some((Instant::now(), traffic.clone()));
        traffic
    }
}
