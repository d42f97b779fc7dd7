//! Connections on which something moves nearly all the time.
//!
//! In: an open session. Out: how it broke. Requests are those that a real apiserver takes from any user as well.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::http::{Broken, Https, Session};

/// Large, and a real apiserver takes up to 3 MiB.
const BODY: usize = 64 * 1024;
/// So that ten such connections leave a test machine some of its time.
const PAUSE: Duration = Duration::from_millis(50);
/// The largest thing that any user may read.
const DOWNLOAD: &str = "/openapi/v2";
/// Something that any user may post.
const UPLOAD: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// Something small that every apiserver answers.
const SMALL: &str = "/version";
/// A review; spaces after it make it long.
const REVIEW: &str = r#"{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"verb":"get","resource":"services"}}}"#;

/// Which way most bytes go.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Up,
    Down,
}

/// The request that is sent again and again.
pub(super) fn request(https: &Https, direction: Direction) -> Vec<u8> {
    match direction {
        Direction::Up => {
            let mut body = REVIEW.as_bytes().to_vec();
            body.resize(BODY, b' ');
            https.post(UPLOAD, &body)
        }
        Direction::Down => https.get(DOWNLOAD),
    }
}

/// A small one.
pub(super) fn small_request(https: &Https) -> Vec<u8> {
    https.get(SMALL)
}

/// One request and its whole answer.
pub(super) async fn exchange(
    session: &mut Session,
    request: &[u8],
    progress: impl FnMut(),
) -> Result<(), Broken> {
    session.write(request).await?;
    session.answer(progress).await
}

/// Exchange after exchange, until it breaks.
pub(super) async fn go_on(session: &mut Session, request: &[u8], mut progress: impl FnMut()) -> Broken {
    loop {
        if let Err(broken) = exchange(session, request, &mut progress).await {
            return broken;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Request after request, answered or not, until it breaks.
pub(super) async fn pipeline(session: &mut Session, request: &[u8], mut progress: impl FnMut()) -> Broken {
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = ticks.tick() => session.write(request).await,
            heard = session.skip() => heard.map(|()| progress()),
        };
        if let Err(broken) = done {
            return broken;
        }
    }
}
