//! The cluster's CA for those who dial apiservers without credentials, followed as its file changes.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;

use super::Access;

/// A rotated CA is picked up within a minute; reading and parsing a bundle takes well under a millisecond.
const PERIOD: Duration = Duration::from_secs(30);

/// Reads the CA again and again until nobody listens. One that cannot be read or parsed leaves the last good one.
pub async fn follow_trust(access: Access, trust: watch::Sender<Arc<ClientConfig>>) {
    let mut failing = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = trust.closed() => return,
        }
        match access.trust() {
            Ok(settings) => {
                if failing.take().is_some() {
                    tracing::info!(ca = access.ca(), "the cluster's CA can be read again");
                }
                trust.send_replace(Arc::new(settings));
            }
            Err(error) => {
                if failing.as_ref() != Some(&error) {
                    tracing::warn!(
                        ca = access.ca(),
                        error,
                        "cannot read the cluster's CA; the last good one is used"
                    );
                }
                failing = Some(error);
            }
        }
    }
}
