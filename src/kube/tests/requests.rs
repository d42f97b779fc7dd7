//! What an apiserver is asked for, over which connections, with which resourceVersions, and both forms of 410.

use super::cluster::{Reply, event, status};
use super::running::{eventually, one};

const SERVICES: &str = "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                      ?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
const WATCH: &str = "&watch=true&allowWatchBookmarks=true";

/// A watch that ends within its first second without a word is taken for a fault.
async fn outlast_a_short_watch() {
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn both_collections_are_listed_from_cache_and_watched_over_one_connection() {
    let (cluster, server, mut running) = one(&["h2", "http/1.1"]).await;
    let mut requests = server.requests();
    requests.sort();
    let with = |target: &str| format!("HTTP/2.0 Bearer secret-token {target}");
    assert_eq!(
        requests,
        [
            with(&format!("{SERVICES}&resourceVersion=0")),
            with(&format!("{SERVICES}{WATCH}&resourceVersion=101")),
            with(&format!("{SLICES}&resourceVersion=0")),
            with(&format!("{SLICES}{WATCH}&resourceVersion=101")),
        ]
    );
    assert_eq!(server.connections(), 1);
    let first = running.snapshots.borrow().clone().unwrap();
    let other = "127.0.0.9:6443".parse().unwrap();
    cluster.set_backends(&[other]);
    let second = running.backends(&[other]).await;
    assert_eq!((first.snapshot.generation, second.snapshot.generation), (1, 2));
    assert!(second.received > first.received);
    let connection = running.connection(|c| c.events == 1).await;
    assert_eq!(connection.address, Some(server.address));
}

#[tokio::test]
async fn http1_needs_no_more_than_two_connections() {
    let (cluster, server, mut running) = one(&["http/1.1"]).await;
    let other = "127.0.0.9:6443".parse().unwrap();
    cluster.set_backends(&[other]);
    running.backends(&[other]).await;
    assert_eq!(server.connections(), 2);
    assert!(
        server.requests().iter().all(|request| request.starts_with("HTTP/1.1 ")),
        "{:?}",
        server.requests()
    );
}

#[tokio::test]
async fn server_without_endpoint_slices_is_reported_as_too_old() {
    let (cluster, _fake, mut running) = one(&["h2"]).await;
    cluster.fault("endpointslices", usize::MAX, Reply::status(404, "page not found"));
    outlast_a_short_watch().await;
    cluster.end_watches();
    let connection = running.connection(|c| c.reconnects == 2).await;
    let error = connection.last_error.unwrap_or_default();
    assert!(error.ends_with("(404): Kubernetes 1.21 or later is needed"), "{error}");
    cluster.heal();
    running.synced(&cluster).await;
    let other = "127.0.0.9:6443".parse().unwrap();
    cluster.set_backends(&[other]);
    running.backends(&[other]).await;
}

#[tokio::test]
async fn watches_resume_from_events_and_bookmarks() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    let bookmarked = cluster.bookmark();
    running.connection(|c| c.bookmarks == 2).await;
    outlast_a_short_watch().await;
    cluster.end_watches();
    let resumed = format!("{SERVICES}{WATCH}&resourceVersion={bookmarked}");
    eventually("resumed", || server.requests().iter().any(|request| request.ends_with(&resumed))).await;
    let resumed = format!("{SLICES}{WATCH}&resourceVersion={bookmarked}");
    eventually("resumed", || server.requests().iter().any(|request| request.ends_with(&resumed))).await;
    running.synced(&cluster).await;
    let connection = running.connection.borrow().clone();
    assert_eq!((connection.relists, connection.reconnects), (0, 0));
}

#[tokio::test]
async fn status_410_in_the_stream_relists_without_a_version() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.send("endpointslices", &event("ERROR", &status(410, "too old resource version: 101 (207)")));
    let connection = running.connection(|c| c.relists == 1).await;
    assert_eq!(connection.reconnects, 0);
    eventually("a list", || server.requests().iter().any(|request| request.ends_with(SLICES))).await;
    running.synced(&cluster).await;
}

#[tokio::test]
async fn status_410_at_the_start_of_a_watch_relists_without_a_version() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.bookmark();
    running.connection(|c| c.bookmarks == 2).await;
    cluster.fault(
        "endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes&watch",
        1,
        Reply::status(410, "Gone"),
    );
    let moved = "127.0.0.9:6443".parse().unwrap();
    cluster.end_watches();
    cluster.set_backends(&[moved]);
    running.backends(&[moved]).await;
    let connection = running.connection(|c| c.relists == 1).await;
    assert_eq!(connection.reconnects, 0);
    assert!(server.requests().iter().any(|request| request.ends_with(SLICES)), "{:?}", server.requests());
}

#[tokio::test]
async fn lagging_server_is_asked_for_the_most_recent_list() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault(
        "service-name%3Dkubernetes&resourceVersion=101",
        1,
        Reply::status(504, "Timeout: Too large resource version: 101, current: 7"),
    );
    cluster.send("endpointslices", "broken\n");
    running.synced(&cluster).await;
    eventually("a list", || server.requests().iter().any(|request| request.ends_with(SLICES))).await;
    running.synced(&cluster).await;
}
