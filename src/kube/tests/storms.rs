//! Servers whose answers invite to ask again at once: none of them is asked in a loop.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Reply, event, status};
use super::fake::Fake;
use super::running::one;

/// Only the watch of slices.
const WATCH_SLICES: &str = "endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes&watch";

/// A loop would ask some thousand times in this second; backoff asks about ten times.
async fn is_asked_rarely(fake: &Fake) {
    let before = fake.asked().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = fake.asked().len() - before;
    assert!(asked < 40, "{asked} requests in a second");
}

fn bookmark(version: u64) -> String {
    let metadata = format!(r#"{{"resourceVersion":"{version}"}}"#);
    let object =
        format!(r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{metadata}}}"#);
    event("BOOKMARK", &object)
}

#[tokio::test]
async fn a_server_that_refuses_every_version() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::status(410, "Gone"));
    cluster.bookmark();
    running.connection(|c| c.bookmarks == 2).await;
    cluster.end_watches();
    running.error(&["watch endpointslices.discovery.k8s.io", "(410)"]).await;
    is_asked_rarely(&fake).await;
}

#[tokio::test]
async fn a_server_that_refuses_each_version_after_a_word() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    let begin = format!("{}{}", bookmark(500), event("ERROR", &status(410, "too old resource version")));
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::Ended(begin.into()));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices.discovery.k8s.io", "(410)"]).await;
    is_asked_rarely(&fake).await;
}

#[tokio::test]
async fn a_watch_that_ends_at_once() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    cluster.fault("watch", usize::MAX, Reply::Ended(Bytes::new()));
    cluster.end_watches();
    running.error(&["ended the watch as soon as it had begun"]).await;
    is_asked_rarely(&fake).await;
}

#[tokio::test]
async fn a_watch_that_always_ends_after_a_word() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::Ended(bookmark(500).into()));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices", "ended the watch as soon as it had begun"]).await;
    is_asked_rarely(&fake).await;
}

#[tokio::test]
async fn slices_that_can_be_listed_but_not_watched() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::status(404, "not here"));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices", "(404)"]).await;
    is_asked_rarely(&fake).await;
    let moved = "127.0.0.9:6443".parse().unwrap();
    cluster.set_backends(&[moved]);
    running.backends(&[moved]).await;
}
