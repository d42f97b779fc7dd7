//! The TCP listener. A node's virtual IP must not wait for it: one that cannot be had is said once, and tried again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

/// Between two tries. Whoever has the port may be a daemon that is about to end.
const AGAIN: Duration = Duration::from_secs(1);

/// Returns once it listens.
pub(super) async fn listen(address: SocketAddr) -> TcpListener {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the admin listener is open to other hosts, and asks nobody who they are");
    }
    let mut said: Option<io::ErrorKind> = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if said.is_some() {
                    tracing::info!(%address, "the admin listener answers");
                }
                return listener;
            }
            Err(error) if said == Some(error.kind()) => {}
            Err(error) => {
                said = Some(error.kind());
                tracing::warn!(
                    %address,
                    %error,
                    "the admin listener has to wait: all else works without it; --admin-listen names another address, or off"
                );
            }
        }
        sleep(AGAIN).await;
    }
}
