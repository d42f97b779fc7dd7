//! Everything that a server can answer wrongly: one readable line each, bounded memory, and recovery.

use bytes::Bytes;

use super::cluster::{Cluster, Reply, event};
use super::fake::Fake;
use super::running::{Running, one, start};
use crate::kube::{State, TLS_NAME};
use crate::transport::pki::Pki;

/// Starts against a server that answers every request like this.
async fn always(target: &str, reply: Reply) -> (Cluster, Fake, Running) {
    let pki = Pki::new("cluster");
    let cluster = Cluster::new(&[]);
    cluster.fault(target, usize::MAX, reply);
    let fake = Fake::start(1, 0, pki.server(TLS_NAME, false, &["h2"]), cluster.clone()).await;
    cluster.set_backends(&[fake.address]);
    let running = start(fake.address, &pki.ca_pem()).await;
    (cluster, fake, running)
}

/// The failure is told, nothing is published, and all is well once it is over.
async fn told_and_over(target: &str, reply: Reply, parts: &[&str]) {
    let (cluster, fake, mut running) = always(target, reply).await;
    running.error(parts).await;
    assert!(running.snapshots.borrow().is_none());
    assert_eq!(running.connection.borrow().state, State::Connecting);
    cluster.heal();
    running.backends(&[fake.address]).await;
    running.synced(&cluster).await;
    assert_eq!(running.connection.borrow().last_error, None);
}

#[tokio::test]
async fn html() {
    let page = Reply::Body(200, "text/html", Bytes::from_static(b"<html>welcome</html>"));
    told_and_over("", page, &["list services in namespace default", "text/html", "no apiserver"]).await;
    let page = Reply::json(200, "<html>\nwelcome</html>");
    told_and_over("", page, &["does not parse", "<html>"]).await;
}

#[tokio::test]
async fn an_error_for_ever() {
    told_and_over("", Reply::status(500, "etcd is away"), &["answered 500: etcd is away"]).await;
    told_and_over(
        "",
        Reply::Body(503, "text/plain", Bytes::from_static(b"no")),
        &["503: Service Unavailable"],
    )
    .await;
    let (cluster, fake, mut running) = always("watch", Reply::status(500, "etcd is away")).await;
    running.error(&["watch ", "answered 500: etcd is away"]).await;
    running.backends(&[fake.address]).await;
    cluster.heal();
    running.synced(&cluster).await;
}

#[tokio::test]
async fn bad_credentials() {
    told_and_over(
        "",
        Reply::status(401, "Unauthorized"),
        &["does not accept the credentials (401)", "user \"apivip\" of kubeconfig /"],
    )
    .await;
}

#[tokio::test]
async fn a_missing_permission() {
    let denied = "services is forbidden: User system:node:a cannot list resource services";
    told_and_over(
        "services",
        Reply::status(403, denied),
        &[
            "list services in namespace default: not allowed (403)",
            "grants list and watch on services",
            denied,
        ],
    )
    .await;
    told_and_over(
        "endpointslices",
        Reply::status(403, "no"),
        &["grants list and watch on endpointslices.discovery.k8s.io"],
    )
    .await;
}

#[tokio::test]
async fn objects_of_the_wrong_type() {
    let pods = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    told_and_over("", Reply::json(200, pods), &["sent a v1 PodList where a v1 ServiceList was asked for"])
        .await;
    let (cluster, fake, mut running) = one(&["h2"]).await;
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"kubernetes","resourceVersion":"9"}}"#;
    cluster.fault("", usize::MAX, Reply::status(500, "after this"));
    cluster.send("endpointslices", &event("ADDED", pod));
    running.error(&["watch endpointslices", "sent a v1 Pod where a discovery.k8s.io/v1 EndpointSlice"]).await;
    cluster.heal();
    running.connection(|c| c.state == State::Synced && c.relists == 1).await;
    assert!(
        fake.asked().iter().any(|asked| asked.contains("kubernetes&resourceVersion=101")),
        "{:?}",
        fake.asked()
    );
}

#[tokio::test]
async fn half_a_line() {
    let (cluster, _fake, mut running) = one(&["h2"]).await;
    cluster.send("services", r#"{"type":"ADDED","obj"#);
    cluster.fault("", usize::MAX, Reply::Hang);
    cluster.end_watches_of("services");
    running.error(&["watch services", "in the middle of an event, after 20 bytes"]).await;
    let list = Reply::json(200, r#"{"kind":"ServiceList","api"#);
    told_and_over("", list, &["list services", "does not parse (EOF"]).await;
}

#[tokio::test]
async fn an_event_of_8_mib_is_refused_and_the_collection_listed_anew() {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    let huge = "x".repeat(8 << 20);
    // What is relisted is too large as well, for a while.
    cluster.fault("endpointslices", 1, Reply::json(200, format!("{{\"kind\":\"{huge}\"}}")));
    cluster.send("endpointslices", &event("MODIFIED", &format!("{{\"kind\":\"{huge}\"}}")));
    running.error(&["watch endpointslices", "sent more than 4 MiB as one object"]).await;
    running.error(&["list endpointslices", "sent more than 4 MiB as one object"]).await;
    running.connection(|c| c.state == State::Synced && c.last_error.is_none()).await;
    let moved = "127.0.0.9:6443".parse().unwrap();
    running.synced(&cluster).await;
    cluster.set_backends(&[moved]);
    running.backends(&[moved]).await;
    assert!(fake.connections() >= 3);
}

/// The watch of Services is refused with `code`; EndpointSlices are followed all the same, and what is listed is taken.
async fn the_other_is_followed(code: u16, lists_again: bool) {
    let (cluster, fake, mut running) = one(&["h2"]).await;
    cluster.fault(
        "services?fieldSelector=metadata.name%3Dkubernetes&watch",
        usize::MAX,
        Reply::status(code, "not now"),
    );
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    cluster.end_watches_of("services");
    running.error(&["watch services", "not now"]).await;
    assert_eq!(running.connection.borrow().state, State::Degraded);
    let events = running.connection.borrow().events;
    for last in 2..8 {
        let moved = std::net::SocketAddr::from(([127, 0, 0, last], fake.address.port()));
        cluster.set_backends(&[fake.address, moved]);
        running.backends(&[fake.address, moved]).await;
    }
    let connection = running.connection(|c| c.reconnects >= 2).await;
    assert!(connection.events >= events + 6, "{connection:?}");
    let again = |asked: &String| {
        asked.contains("services?") && !asked.contains("watch") && !asked.contains("Version=0")
    };
    assert_eq!(fake.asked().iter().any(again), lists_again, "{:?}", fake.asked());
    cluster.heal();
    running.synced(&cluster).await;
    assert_eq!(running.connection.borrow().last_error, None);
}

#[tokio::test]
async fn a_collection_is_followed_while_the_other_is_refused_and_what_is_refused_is_listed_again() {
    the_other_is_followed(500, true).await;
    the_other_is_followed(403, true).await;
}

#[tokio::test]
async fn a_server_that_is_asked_for_too_much_is_not_asked_for_lists() {
    the_other_is_followed(429, false).await;
}

#[tokio::test]
async fn slices_are_read_where_the_service_is_refused_from_the_start() {
    let (_cluster, fake, mut running) = always("services?", Reply::status(403, "no")).await;
    running.error(&["list services", "not allowed (403)"]).await;
    super::running::eventually("slices are watched", || {
        fake.asked().iter().any(|asked| asked.contains("endpointslices") && asked.contains("watch=true"))
    })
    .await;
}
