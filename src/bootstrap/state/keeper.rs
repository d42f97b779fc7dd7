//! Keeps the file as good as what is known: each change once, and a failure again until it succeeds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::StateFile;
use crate::model::sources::LastKnownGood;
use crate::process::clock::unix_now;

/// Until a write that failed is tried again: a full disk is not made better by haste.
const RETRY: Duration = Duration::from_secs(60);

/// Writes whatever comes through `good` and differs from `kept`, which is in the file already, until `good` closes and its last
/// value was seen to.
/// A failure is logged when it begins and when it changes.
pub async fn keep(
    file: StateFile,
    mut kept: Option<LastKnownGood>,
    mut good: watch::Receiver<LastKnownGood>,
) {
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
async fn write(file: &StateFile, state: LastKnownGood) -> Result<(), String> {
    let file = file.clone();
    let written = tokio::task::spawn_blocking(move || file.save(&state, unix_now()));
    match written.await {
        Ok(saved) => saved.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{service, state};
    use super::*;

    #[tokio::test]
    async fn what_came_last_is_kept_although_nobody_follows() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), &service());
        let (sender, good) = watch::channel(state(11));
        let keeper = keep(file.clone(), None, good);
        sender.send_replace(state(12));
        drop(sender);
        keeper.await;
        assert_eq!(file.load().unwrap(), Some(state(12)));
    }

    #[tokio::test]
    async fn a_failure_does_not_hold_up_the_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("taken"), "").unwrap();
        let file = StateFile::new(&folder.path().join("taken"), &service());
        let (sender, good) = watch::channel(state(11));
        drop(sender);
        timeout(RETRY / 2, keep(file, None, good)).await.unwrap();
    }
}
