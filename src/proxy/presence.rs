//! Whether anything still needs the virtual IPs on this node: counted on the forwarder's thread, read from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// How many hold the virtual IPs: connections through them, and listeners that are being withdrawn, since the
/// handshake of one more connection may be under way.
#[derive(Clone, Debug)]
pub(super) struct Presence {
    count: Arc<AtomicUsize>,
    /// Changes whenever the count comes to zero.
    emptied: watch::Sender<()>,
}

/// What is told of it.
#[derive(Debug)]
pub(super) struct Witness {
    count: Arc<AtomicUsize>,
    emptied: watch::Receiver<()>,
}

/// One that needs them, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold(Presence);

impl Presence {
    pub(super) fn new() -> (Self, Witness) {
        let (sender, emptied) = watch::channel(());
        let count = Arc::<AtomicUsize>::default();
        (Self { count: Arc::clone(&count), emptied: sender }, Witness { count, emptied })
    }

    pub(super) fn hold(&self) -> Hold {
        self.count.fetch_add(1, Ordering::Relaxed);
        Hold(self.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.emptied.send_replace(());
        }
    }
}

impl Witness {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The last one let go, and there is none since. Cancel safe.
    pub(super) async fn emptied(&mut self) {
        loop {
            if self.emptied.changed().await.is_err() {
                // The thread has ended; whoever holds the handle learns it elsewhere.
                std::future::pending::<()>().await;
            }
            if self.count() == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn it_is_emptied_by_the_last_and_once() {
        let (presence, mut witness) = Presence::new();
        assert!(witness.emptied().now_or_never().is_none(), "there was none");
        let (first, second) = (presence.hold(), presence.hold());
        drop(first);
        assert!(witness.emptied().now_or_never().is_none() && witness.count() == 1);
        drop(second);
        let third = presence.hold();
        assert!(witness.emptied().now_or_never().is_none(), "another one came");
        drop(third);
        assert!(witness.emptied().now_or_never().is_some());
        assert!(witness.emptied().now_or_never().is_none() && witness.count() == 0);
    }
}
