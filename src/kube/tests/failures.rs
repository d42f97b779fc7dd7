//! Everything that a server can answer or show wrongly: one readable line each, bounded memory, no request loops, and
//! recovery.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, Reply, event, status};
use super::fake::FakeApiserver;
use super::running::{Running, eventually, one, start};
use crate::kube::ConnectionState;
use crate::transport::TLS_NAME;
use crate::transport::pki::Pki;

/// Starts against a server that answers every request like this.
async fn always(target: &str, reply: Reply) -> (Cluster, FakeApiserver, Running) {
    let pki = Pki::new("cluster");
    let cluster = Cluster::new(&[]);
    cluster.fault(target, usize::MAX, reply);
    let server = FakeApiserver::start(1, 0, pki.server(TLS_NAME, false, &["h2"]), cluster.clone()).await;
    cluster.set_backends(&[server.address]);
    let running = start(server.address, &pki.ca_pem()).await;
    (cluster, server, running)
}

/// The failure is told, nothing is published, and all is well once it is over.
async fn fails_and_recovers(target: &str, reply: Reply, parts: &[&str]) {
    let (cluster, server, mut running) = always(target, reply).await;
    running.error(parts).await;
    assert!(running.snapshots.borrow().is_none());
    assert_eq!(running.connection.borrow().state, ConnectionState::Connecting);
    cluster.heal();
    running.backends(&[server.address]).await;
    running.synced(&cluster).await;
    assert_eq!(running.connection.borrow().last_error, None);
}

#[tokio::test]
async fn html_instead_of_json_is_reported() {
    let page = Reply::Body(200, "text/html", Bytes::from_static(b"<html>welcome</html>"));
    fails_and_recovers("", page, &["list services in namespace default", "text/html", "not an API server"])
        .await;
    let page = Reply::json(200, "<html>\nwelcome</html>");
    fails_and_recovers("", page, &["does not parse", "<html>"]).await;
}

#[tokio::test]
async fn server_errors_are_reported_until_they_end() {
    fails_and_recovers("", Reply::status(500, "etcd is away"), &["answered 500: etcd is away"]).await;
    fails_and_recovers(
        "",
        Reply::Body(503, "text/plain", Bytes::from_static(b"no")),
        &["503: Service Unavailable"],
    )
    .await;
    let (cluster, server, mut running) = always("watch", Reply::status(500, "etcd is away")).await;
    running.error(&["watch ", "answered 500: etcd is away"]).await;
    running.backends(&[server.address]).await;
    cluster.heal();
    running.synced(&cluster).await;
}

#[tokio::test]
async fn rejected_credentials_are_reported_with_their_source() {
    fails_and_recovers(
        "",
        Reply::status(401, "Unauthorized"),
        &["does not accept the credentials (401)", "user \"apivip\" of kubeconfig /"],
    )
    .await;
}

#[tokio::test]
async fn missing_permission_is_reported_with_the_role_to_bind() {
    let denied = "services is forbidden: User system:node:a cannot list resource services";
    fails_and_recovers(
        "services",
        Reply::status(403, denied),
        &[
            "list services in namespace default: not allowed (403)",
            "grants list and watch on services",
            denied,
        ],
    )
    .await;
    fails_and_recovers(
        "endpointslices",
        Reply::status(403, "no"),
        &["grants list and watch on endpointslices.discovery.k8s.io"],
    )
    .await;
}

#[tokio::test]
async fn objects_of_the_wrong_kind_are_refused() {
    let pods = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    fails_and_recovers(
        "",
        Reply::json(200, pods),
        &["sent a v1 PodList instead of the requested v1 ServiceList"],
    )
    .await;
    let (cluster, server, mut running) = one(&["h2"]).await;
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"kubernetes","resourceVersion":"9"}}"#;
    cluster.fault("", usize::MAX, Reply::status(500, "after this"));
    cluster.send("endpointslices", &event("ADDED", pod));
    running
        .error(&[
            "watch endpointslices",
            "sent a v1 Pod instead of the requested discovery.k8s.io/v1 EndpointSlice",
        ])
        .await;
    cluster.heal();
    running.connection(|c| c.state == ConnectionState::Synced && c.relists == 1).await;
    assert!(
        server.requests().iter().any(|request| request.contains("kubernetes&resourceVersion=101")),
        "{:?}",
        server.requests()
    );
}

#[tokio::test]
async fn truncated_event_and_list_are_reported() {
    let (cluster, _fake, mut running) = one(&["h2"]).await;
    cluster.send("services", r#"{"type":"ADDED","obj"#);
    cluster.fault("", usize::MAX, Reply::Hang);
    cluster.end_watches_of("services");
    running.error(&["watch services", "in the middle of an event, after 20 bytes"]).await;
    let list = Reply::json(200, r#"{"kind":"ServiceList","api"#);
    fails_and_recovers("", list, &["list services", "does not parse (EOF"]).await;
}

#[tokio::test]
async fn event_of_8_mib_is_refused_and_the_collection_relisted() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    let huge = "x".repeat(8 << 20);
    // What is relisted is too large as well, for a while.
    cluster.fault("endpointslices", 1, Reply::json(200, format!("{{\"kind\":\"{huge}\"}}")));
    cluster.send("endpointslices", &event("MODIFIED", &format!("{{\"kind\":\"{huge}\"}}")));
    running.error(&["watch endpointslices", "sent more than 4 MiB as one object"]).await;
    running.error(&["list endpointslices", "sent more than 4 MiB as one object"]).await;
    running.connection(|c| c.state == ConnectionState::Synced && c.last_error.is_none()).await;
    let moved = "127.0.0.9:6443".parse().unwrap();
    running.synced(&cluster).await;
    cluster.set_backends(&[moved]);
    running.backends(&[moved]).await;
    assert!(server.connections() >= 3);
}

/// The watch of Services is refused with `code`; EndpointSlices are followed all the same, and what is listed is taken.
async fn other_collection_is_followed(code: u16, lists_again: bool) {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault(
        "services?fieldSelector=metadata.name%3Dkubernetes&watch",
        usize::MAX,
        Reply::status(code, "not now"),
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    cluster.end_watches_of("services");
    running.error(&["watch services", "not now"]).await;
    assert_eq!(running.connection.borrow().state, ConnectionState::Degraded);
    let events = running.connection.borrow().events;
    for last in 2..8 {
        let moved = std::net::SocketAddr::from(([127, 0, 0, last], server.address.port()));
        cluster.set_backends(&[server.address, moved]);
        running.backends(&[server.address, moved]).await;
    }
    let connection = running.connection(|c| c.reconnects >= 2).await;
    assert!(connection.events >= events + 6, "{connection:?}");
    let again = |request: &String| {
        request.contains("services?") && !request.contains("watch") && !request.contains("Version=0")
    };
    assert_eq!(server.requests().iter().any(again), lists_again, "{:?}", server.requests());
    cluster.heal();
    running.synced(&cluster).await;
    assert_eq!(running.connection.borrow().last_error, None);
}

#[tokio::test]
async fn one_collection_refused_leaves_the_other_followed() {
    other_collection_is_followed(500, true).await;
    other_collection_is_followed(403, true).await;
}

#[tokio::test]
async fn server_that_answers_429_is_not_asked_for_lists() {
    other_collection_is_followed(429, false).await;
}

#[tokio::test]
async fn endpoint_slices_are_read_when_the_service_is_refused_from_the_start() {
    let (_cluster, server, mut running) = always("services?", Reply::status(403, "no")).await;
    running.error(&["list services", "not allowed (403)"]).await;
    eventually("slices are watched", || {
        server
            .requests()
            .iter()
            .any(|request| request.contains("endpointslices") && request.contains("watch=true"))
    })
    .await;
}

/// Only the watch of slices.
const WATCH_SLICES: &str = "endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes&watch";

/// A loop would ask some thousand times in this second; backoff asks about ten times.
async fn is_asked_rarely(server: &FakeApiserver) {
    let before = server.requests().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = server.requests().len() - before;
    assert!(sent < 40, "{sent} requests in a second");
}

fn bookmark(version: u64) -> String {
    let metadata = format!(r#"{{"resourceVersion":"{version}"}}"#);
    let object =
        format!(r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{metadata}}}"#);
    event("BOOKMARK", &object)
}

#[tokio::test]
async fn server_that_refuses_every_version_is_not_asked_in_a_loop() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::status(410, "Gone"));
    cluster.bookmark();
    running.connection(|c| c.bookmarks == 2).await;
    cluster.end_watches();
    running.error(&["watch endpointslices.discovery.k8s.io", "(410)"]).await;
    is_asked_rarely(&server).await;
}

#[tokio::test]
async fn server_that_refuses_each_version_after_a_bookmark_is_not_asked_in_a_loop() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    let begin = format!("{}{}", bookmark(500), event("ERROR", &status(410, "too old resource version")));
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::SessionEnd(begin.into()));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices.discovery.k8s.io", "(410)"]).await;
    is_asked_rarely(&server).await;
}

#[tokio::test]
async fn watch_that_ends_at_once_is_not_restarted_in_a_loop() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault("watch", usize::MAX, Reply::SessionEnd(Bytes::new()));
    cluster.end_watches();
    running.error(&["ended the watch as soon as it had begun"]).await;
    is_asked_rarely(&server).await;
}

#[tokio::test]
async fn watch_that_ends_after_one_bookmark_is_not_restarted_in_a_loop() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::SessionEnd(bookmark(500).into()));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices", "ended the watch as soon as it had begun"]).await;
    is_asked_rarely(&server).await;
}

#[tokio::test]
async fn endpoint_slices_that_cannot_be_watched_are_relisted_slowly() {
    let (cluster, server, mut running) = one(&["h2"]).await;
    cluster.fault(WATCH_SLICES, usize::MAX, Reply::status(404, "not here"));
    cluster.send("endpointslices", "broken\n");
    running.error(&["watch endpointslices", "(404)"]).await;
    is_asked_rarely(&server).await;
    let moved = "127.0.0.9:6443".parse().unwrap();
    cluster.set_backends(&[moved]);
    running.backends(&[moved]).await;
}

async fn refused(server: &Pki, trusted: &Pki, name: &str, expired: bool) -> (FakeApiserver, Running) {
    let cluster = Cluster::new(&[]);
    let server = FakeApiserver::start(1, 0, server.server(name, expired, &["h2"]), cluster).await;
    let running = start(server.address, &trusted.ca_pem()).await;
    (server, running)
}

#[tokio::test]
async fn certificate_of_another_ca_is_refused() {
    // Once with another name, once with the same: rustls reports these differently.
    for name in ["foreign", "cluster"] {
        let (server, mut running) = refused(&Pki::new(name), &Pki::new("cluster"), TLS_NAME, false).await;
        let address = format!("{}: its certificate is not signed by the cluster CA", server.address);
        running.error(&[&address, "certificate-authority /", "ca.crt"]).await;
    }
}

#[tokio::test]
async fn expired_certificate_is_refused() {
    let pki = Pki::new("cluster");
    let (server, mut running) = refused(&pki, &pki, TLS_NAME, true).await;
    running.error(&[&server.address.to_string(), "its certificate has expired"]).await;
}

#[tokio::test]
async fn certificate_without_the_name_is_refused() {
    let pki = Pki::new("cluster");
    let (server, mut running) = refused(&pki, &pki, "apiserver.example", false).await;
    let address = server.address.to_string();
    running
        .error(&[
            &address,
            "does not contain the name kubernetes.default.svc",
            "it contains",
            "apiserver.example",
        ])
        .await;
}

#[tokio::test]
async fn server_without_tls_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut running = start(address, &Pki::new("cluster").ca_pem()).await;
    running.error(&[&address.to_string(), "does not speak TLS"]).await;
    plain.abort();
}

#[tokio::test]
async fn ca_replaced_on_disk_is_trusted_by_the_next_session() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let (_fake, mut running) = refused(&new, &old, TLS_NAME, false).await;
    running.error(&["not signed by the cluster CA"]).await;
    std::fs::write(running.folder().join("ca.crt"), new.ca_pem()).unwrap();
    running.connection(|c| c.state == ConnectionState::Synced).await;
}
