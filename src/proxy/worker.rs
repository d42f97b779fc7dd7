//! The forwarder's thread: a runtime of its own, so that load on it never delays a decision on health.
//!
//! In: commands. It ends when it was drained, or when nobody can give commands any more.

use std::collections::BTreeSet;
use std::io;
use std::net;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ForwarderError;
use super::carrier::{Carrier, Order};
use super::listeners::Listeners;
use super::shared::Shared;
use crate::model::proxy_routes::ProxyRoutes;
use crate::model::types::Vip;

/// What the thread is told. Whoever waits for a reply may have left.
pub(super) enum Command {
    Route(Arc<ProxyRoutes>),
    Serve(BTreeSet<Vip>, oneshot::Sender<Result<(), ForwarderError>>),
    Withdraw(oneshot::Sender<()>),
    Listeners(oneshot::Sender<io::Result<Vec<net::TcpListener>>>),
    Drain(Duration, oneshot::Sender<usize>),
}

/// What it begins with.
pub(super) struct Start {
    pub(super) local: Vec<net::TcpListener>,
    pub(super) vips: Vec<net::TcpListener>,
    pub(super) inbox: UnboundedReceiver<Command>,
}

/// Runs until the end, and says on `started` whether it could begin.
pub(super) fn run(
    start: Start,
    shared: impl FnOnce() -> (Shared, UnboundedReceiver<Order>),
    started: &Sender<io::Result<()>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    let drained = runtime.block_on(async {
        let (shared, orders) = shared();
        let shared = Rc::new(shared);
        let began = Carrier::new(Rc::clone(&shared)).and_then(|carrier| {
            Ok((carrier, Listeners::start(Rc::clone(&shared), start.local, start.vips)?))
        });
        let (carrier, listeners) = match began {
            Ok(began) => began,
            Err(error) => {
                let _ = started.send(Err(error));
                return None;
            }
        };
        let _ = started.send(Ok(()));
        tokio::task::spawn_local(carrier.run(orders));
        obey(&shared, &listeners, start.inbox).await
    });
    // Ends every task, and so resets every connection that is left.
    drop(runtime);
    if let Some((reply, left)) = drained {
        let _ = reply.send(left);
    }
}

/// Returns how many connections were left by a drain, and whom to tell.
async fn obey(
    shared: &Shared,
    listeners: &Listeners,
    mut inbox: UnboundedReceiver<Command>,
) -> Option<(oneshot::Sender<usize>, usize)> {
    loop {
        match inbox.recv().await? {
            Command::Route(routes) => shared.route(routes),
            Command::Serve(vips, reply) => drop(reply.send(listeners.serve(&vips))),
            Command::Withdraw(reply) => {
                listeners.withdraw();
                let _ = reply.send(());
            }
            Command::Listeners(reply) => drop(reply.send(listeners.duplicate())),
            Command::Drain(grace, reply) => {
                listeners.close();
                // Either way what counts is how many are left.
                let _ = timeout(grace, shared.table.emptied()).await;
                return Some((reply, shared.table.len()));
            }
        }
    }
}
