//! Keeps the file as good as what is known: each change once, and a failure again until it succeeds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::StateFile;
use crate::clock::unix_now;
use crate::model::merge::LastGood;

/// Until a write that failed is tried again: a full disk is not made better by haste.
const RETRY: Duration = Duration::from_secs(60);

/// Writes whatever comes through `good` and differs from `kept`, which is in the file already, until `good` closes.
/// A failure is logged when it begins and when it changes.
pub async fn keep(file: StateFile, mut kept: Option<LastGood>, mut good: watch::Receiver<LastGood>) {
    let mut failure: Option<String> = None;
    good.mark_changed();
    loop {
        let changed = good.changed();
        let open = match &failure {
            // Once in a while without a change, too.
            Some(_) => timeout(RETRY, changed).await.unwrap_or(Ok(())),
            None => changed.await,
        };
        if open.is_err() {
            return;
        }
        let latest = good.borrow_and_update().clone();
        if latest.frontends.is_empty() || kept.as_ref() == Some(&latest) {
            failure = None;
            continue;
        }
        match write(&file, latest.clone()).await {
            Ok(()) => {
                if failure.take().is_some() {
                    tracing::info!("the last good state is kept again");
                }
                kept = Some(latest);
            }
            Err(error) => {
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "the last good state is not kept: the next start begins with what is there already"
                    );
                }
                failure = Some(error);
            }
        }
    }
}

/// On a thread of its own: a disk can take seconds.
async fn write(file: &StateFile, state: LastGood) -> Result<(), String> {
    let file = file.clone();
    let written = tokio::task::spawn_blocking(move || file.save(&state, unix_now()));
    match written.await {
        Ok(saved) => saved.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
