//! Whether the apiserver that is read is to be left for one that is ready.
//!
//! In: health views. Out: candidates that know who is not ready, and the end of the wait for a session that is with such a
//! one. An apiserver that has lost its etcd goes on serving watches and says nothing new in them, for minutes, and one whose
//! process hangs says nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch::Receiver;

use super::session::Hub;
use crate::model::health::{HealthState, HealthView};

/// How long it may be unready or silent. What it knows does not change so fast that another one is needed sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// Health views, as they come.
pub(super) type Views = Receiver<Option<HealthView>>;

/// Waits until the apiserver that the session is with has been unready or Down for a while, and another one was ready.
pub(super) async fn lost(views: &mut Views, hub: &Hub) {
    learn(views, hub);
    loop {
        while !hub.candidates().is_with_unready() {
            news(views, hub).await;
        }
        let recovered = async {
            while hub.candidates().is_with_unready() {
                news(views, hub).await;
            }
        };
        if tokio::time::timeout(PATIENCE, recovered).await.is_err() {
            return;
        }
    }
}

/// Waits for the next view.
async fn news(views: &mut Views, hub: &Hub) {
    if views.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    learn(views, hub);
}

fn learn(views: &mut Views, hub: &Hub) {
    let unready = views.borrow_and_update().as_ref().map(unready);
    hub.candidates().distrust(unready.unwrap_or_default());
}

/// The apiservers that are not ready, or do not answer, where another one is ready.
fn unready(view: &HealthView) -> BTreeSet<SocketAddr> {
    let all = view.snapshot.apiservers();
    let any = all.iter().any(|backend| view.state(*backend) == HealthState::Healthy);
    let is_unready = |backend: &SocketAddr| {
        matches!(view.state(*backend), HealthState::Draining | HealthState::Suspect | HealthState::Failed)
    };
    all.into_iter().filter(|backend| any && is_unready(backend)).collect()
}

#[cfg(test)]
mod tests;
