//! Follows the CA and the credentials as their files change.
//!
//! In: [`Access`] as it was loaded. Out: a new one when a renewal is complete: all of it parses, and key and certificate
//! match. Until then the last good one is used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Access;
use crate::transport::readyz::Identity;

/// A CA that was renewed must be known before the first apiserver shows a certificate of it, and tools that rotate both
/// wait for no node. A look takes well under a millisecond.
const PERIOD: Duration = Duration::from_secs(2);

/// Looks again and again until nobody listens. `identity` gets the CA; the credentials in it are the session's to give.
pub async fn follow(access: watch::Sender<Arc<Access>>, identity: Arc<watch::Sender<Identity>>) {
    follow_every(PERIOD, &access, &identity).await;
}

pub(super) async fn follow_every(
    period: Duration,
    access: &watch::Sender<Arc<Access>>,
    identity: &watch::Sender<Identity>,
) {
    let mut failing = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = access.closed() => return,
        }
        match look(access, identity).await {
            Ok(()) => {
                if failing.take().is_some() {
                    tracing::info!(source = access.borrow().source(), "the credentials can be read again");
                }
            }
            Err(error) => {
                if failing.as_ref() != Some(&error) {
                    let source = access.borrow().source().to_owned();
                    tracing::warn!(
                        source,
                        error,
                        "cannot read renewed credentials; the last good ones are used"
                    );
                }
                failing = Some(error);
            }
        }
    }
}

async fn look(access: &watch::Sender<Arc<Access>>, identity: &watch::Sender<Identity>) -> Result<(), String> {
    let current = Arc::clone(&access.borrow());
    let renewed = current.reload().map_err(|error| error.to_string())?;
    if !renewed.trusts_like(&current) {
        let trust = Arc::new(renewed.trust()?);
        identity.send_modify(|identity| identity.trust = trust);
        tracing::info!(ca = renewed.ca(), "the cluster's CA was renewed");
    }
    if !renewed.connects_like(&current) {
        tracing::info!(source = renewed.source(), "the credentials were renewed");
    } else if renewed.says_like(&current) {
        return Ok(());
    }
    access.send_replace(Arc::new(renewed));
    Ok(())
}
