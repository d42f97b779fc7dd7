//! When a connection has been idle for too long, by the clocks of kube-apiserver 1.37 (seen there).
//!
//! In: the begin and end of each request of a connection. Out: the moment to end it. PINGs do not count.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::sim::body::AnswerBody;

/// How long an HTTP/1.1 connection may take to its first request, and any connection to the end of its TLS handshake: the
/// ReadHeaderTimeout.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(32);
/// How long any other connection may go without a request: the IdleTimeout.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(90);

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Activity(watch::Sender<Use>);

#[derive(Clone, Copy, Debug)]
struct Use {
    under_way: usize,
    /// The begin of the present lack of requests.
    since: Instant,
    limit: Duration,
}

impl Activity {
    /// Of a connection that begins now.
    pub(super) fn new(http2: bool) -> Self {
        let limit = if http2 { BETWEEN_REQUESTS } else { FIRST_REQUEST };
        Self(watch::Sender::new(Use { under_way: 0, since: Instant::now(), limit }))
    }

    /// A request is under way until what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.0.send_modify(|now| now.under_way += 1);
        Busy(self.clone())
    }

    /// Resolves when the connection has been idle for too long.
    pub(super) async fn idle(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(now.since + now.limit), if now.under_way == 0 => return,
                // The sender is here, so there is no error.
                _ = changes.changed() => {}
            }
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|now| {
            *now = Use { under_way: now.under_way - 1, since: Instant::now(), limit: BETWEEN_REQUESTS };
        });
    }
}

/// A body whose request is under way until it has been sent.
pub(super) struct Sent {
    body: AnswerBody,
    _busy: Busy,
}

impl Sent {
    pub(super) fn new(body: AnswerBody, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(activity: &Activity) -> Duration {
        let begin = Instant::now();
        activity.idle().await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_is_waited_for_less_over_http1() {
        assert_eq!(ended(&Activity::new(false)).await.as_secs(), 32);
        assert_eq!(ended(&Activity::new(true)).await.as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_starts_anew_after_a_request_and_stands_during_one() {
        let activity = Arc::new(Activity::new(false));
        let busy = activity.begin();
        let late = tokio::time::timeout(Duration::from_secs(1000), activity.idle()).await;
        assert!(late.is_err());
        drop(busy);
        assert_eq!(ended(&activity).await.as_secs(), 90);
    }
}
