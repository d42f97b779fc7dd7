//! Who has just come, and when it has been here for long.
//!
//! Where connections come at a high rate they end at once. The four system calls that let the kernel look after an idle one
//! are spent only on those that stay.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Short beside the first keepalive probe.
const YOUTH: Duration = Duration::from_secs(1);

/// In the order in which they came.
#[derive(Default)]
pub(super) struct Young(VecDeque<(Instant, u64)>);

impl Young {
    /// One came now.
    pub(super) fn push(&mut self, name: u64, now: Instant) {
        self.0.push_back((now + YOUTH, name));
    }

    /// Waits until one is not young any more; for ever, where none is. Cancel safe.
    pub(super) async fn any_grown(&self) {
        match self.0.front() {
            Some((at, _)) => sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    /// The next one that is not young any more.
    pub(super) fn pop_grown(&mut self, now: Instant) -> Option<u64> {
        let &(at, name) = self.0.front()?;
        (at <= now).then(|| {
            self.0.pop_front();
            name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_told_once_after_its_time_and_in_order() {
        let mut young = Young::default();
        let begin = Instant::now();
        young.push(1, begin);
        young.push(2, begin + YOUTH / 2);
        assert_eq!(young.pop_grown(begin), None);
        young.any_grown().await;
        assert_eq!(Instant::now(), begin + YOUTH);
        assert_eq!(young.pop_grown(Instant::now()), Some(1));
        assert_eq!(young.pop_grown(Instant::now()), None);
        assert_eq!(young.pop_grown(begin + 2 * YOUTH), Some(2));
        assert_eq!(young.pop_grown(begin + 2 * YOUTH), None);
        let never = tokio::time::timeout(Duration::from_secs(3600), young.any_grown());
        assert!(never.await.is_err(), "nobody is left to wait for");
    }
}
