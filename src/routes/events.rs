//! Changes of links and addresses, as the kernel tells everybody. What it could not tell is a change, too.

use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{HostError, failed};
use crate::netlink::multicast::Multicast;

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of the kernel's `rtnetlink.h`.
const GROUPS: [u32; 3] = [1, 5, 9];
/// An interface that comes up brings a burst of events.
const SETTLE: Duration = Duration::from_millis(200);
/// A socket that broke is replaced after this; there is a regular look meanwhile.
pub(super) const REOPEN: Duration = Duration::from_secs(1);

/// Listens on a socket of its own: what is lost there costs no answer to a request.
pub(super) struct Events {
    heard: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Events {
    pub fn open() -> Result<Self, HostError> {
        let mut socket = listen()?;
        let (changed, heard) = watch::channel(());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = socket.receive().await {
                    tracing::debug!(%error, "listen to changes of links and addresses");
                    socket = reopened().await;
                }
                sleep(SETTLE).await;
                while let Some(Ok(_)) = socket.try_receive() {}
                if changed.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { heard, task })
    }

    /// Resolves once something has changed.
    pub async fn next(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen() -> Result<Multicast, HostError> {
    Multicast::open(NETLINK_ROUTE, GROUPS)
        .map_err(|e| failed("open a netlink socket to changes of links and addresses", e))
}

async fn reopened() -> Multicast {
    loop {
        sleep(REOPEN).await;
        match listen() {
            Ok(socket) => return socket,
            Err(error) => tracing::debug!(%error, "listen to changes of links and addresses again"),
        }
    }
}
