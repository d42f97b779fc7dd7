//! Tells those who ask apiservers for their health what credentials to show, as they are renewed.
//!
//! In: the client of the session that stands. Out: the credentials in the [`Identity`] that probes and self-tests use. What
//! was there before stays where the new ones cannot be read.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch::Sender;

use super::client::Client;
use crate::transport::readyz::Identity;

/// A token that was renewed is shown so much later at the most. Nothing is read or run for a look, unless it has ended.
const PERIOD: Duration = Duration::from_secs(2);

/// Tells them what the client shows now, and from then on whenever that changes.
pub(super) async fn keep(client: &Client, identity: &Sender<Identity>) -> Infallible {
    let mut failures = 0_u32;
    loop {
        match client.credentials().await {
            Ok(credentials) => {
                failures = 0;
                identity.send_if_modified(|identity| {
                    let changed = identity.credentials != credentials;
                    identity.credentials = credentials;
                    changed
                });
            }
            Err(cause) => {
                failures = failures.saturating_add(1);
                // Once, another request may have been running the credential plugin.
                if failures == 2 || !client.renews_credentials() {
                    tracing::warn!(
                        cause,
                        "no credentials to ask apiservers for their health with; the last ones are used"
                    );
                }
            }
        }
        if !client.renews_credentials() {
            return std::future::pending().await;
        }
        tokio::time::sleep(PERIOD).await;
    }
}
