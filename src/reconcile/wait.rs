//! What the reconciler waits for, and how long.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

/// How long a step may go on after a stop. It takes milliseconds, unless a commit waits for another program's.
const LAST_STEP: Duration = Duration::from_millis(300);

/// Begins with something after a while.
pub(super) async fn after<T>(wait: Duration, what: impl Future<Output = T>) -> T {
    // Even a sleep of no length takes the runtime's timer a millisecond.
    if !wait.is_zero() {
        sleep(wait).await;
    }
    what.await
}

/// Resolves then; never, if there is no such moment.
pub(super) async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves a moment after a stop was asked for.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(LAST_STEP).await;
}
