//! The whole server over real TLS on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::sim::access_log::{self, What};
use crate::sim::control::Control;
use crate::sim::fixture::{Fixture, Next, TOKEN};
use crate::sim::objects::{Port, endpoint_slices, service};
use crate::sim::protocol::{Canned, ExpiredForm, Injection, Resource};

const H2: &[&[u8]] = &[b"h2"];
const HTTP1: &[&[u8]] = &[b"http/1.1"];
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

async fn put_service(control: &Control, version: u64) {
    let object = service(&["10.96.0.1".parse().unwrap()], &[Port::new("https", 443)], false);
    control.put(&object, Some(version)).await.unwrap();
}

async fn put_slice(control: &Control, version: u64, backend: &str) {
    let slices = endpoint_slices(&[backend.parse().unwrap()], &[Port::new("https", 6443)]);
    control.put(&slices[0], Some(version)).await.unwrap();
}

#[tokio::test]
async fn lists_and_watches_over_both_protocols() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    put_service(&control, 10).await;
    for (round, alpn) in [(1, H2), (2, HTTP1)] {
        let mut client = fixture.client(bound.api[0], alpn).await;
        let (_, list) = client.json(&format!("{SERVICES}?fieldSelector=metadata.name%3Dkubernetes")).await;
        assert_eq!(list["kind"], "ServiceList");
        assert_eq!(list["items"][0]["spec"]["clusterIP"], "10.96.0.1");
        assert!(list["items"][0].get("kind").is_none());
        let version: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let mut watch = client.watch(&format!("{SLICES}?watch=true&resourceVersion={version}")).await;
        put_slice(&control, 10 * round + 1, "192.0.2.11").await;
        let (kind, object) = watch.event().await;
        assert_eq!(
            (kind.as_str(), object["kind"].as_str()),
            (if round == 1 { "ADDED" } else { "MODIFIED" }, Some("EndpointSlice"))
        );
        assert_eq!(object["metadata"]["resourceVersion"], (10 * round + 1).to_string());
        assert_eq!(control.close_watches().await.unwrap(), 1);
        assert_eq!(watch.next().await, Next::End(String::new()));
    }
    let stats = control.stats().await.unwrap();
    assert_eq!((stats.requests_of("list", "services"), stats.requests_of("watch", "endpointslices")), (2, 2));
}

#[tokio::test]
async fn empty_lists_are_null_and_unknown_paths_404() {
    let fixture = Fixture::new();
    let (bound, _control) = fixture.apiserver("a").await;
    let mut client = fixture.client(bound.api[0], H2).await;
    let (status, list) = client.json(SERVICES).await;
    assert_eq!((status.as_u16(), &list["items"]), (200, &serde_json::Value::Null));
    let (status, object) = client.json("/api/v1/namespaces/default/endpoints").await;
    assert_eq!(status, 403);
    assert_eq!(
        object["message"],
        "endpoints is forbidden: User \"system:serviceaccount:kube-system:apivip\" cannot list resource \"endpoints\" in API \
         group \"\" in the namespace \"default\""
    );
    let (status, object) = client.json(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!((status.as_u16(), object["reason"].as_str()), (404, Some("NotFound")));
    let (status, object) = client.json(&format!("{SERVICES}?resourceVersion=99")).await;
    assert_eq!((status.as_u16(), object["reason"].as_str()), (504, Some("Timeout")));
}

#[tokio::test]
async fn credentials_are_asked_for() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    let status = async |path, token| {
        // Over HTTP/2 a stranger's connection is good for one request.
        let mut client = fixture.client(bound.api[0], H2).await;
        client.raw(path, token).await.unwrap().status().as_u16()
    };
    assert_eq!(status(SERVICES, None).await, 403);
    assert_eq!(status(SERVICES, Some("wrong")).await, 401);
    assert_eq!(status(SERVICES, Some(TOKEN)).await, 200);
    assert_eq!(status("/readyz", None).await, 200);
    control.adjust(|faults| faults.anonymous_health = false).await.unwrap();
    assert_eq!(status("/readyz", None).await, 401);
}

#[tokio::test]
async fn ordered_answers() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    let mut client = fixture.client(bound.api[0], HTTP1).await;
    let forbidden = Canned { verb: Some("watch".into()), ..Canned::status(403) };
    control.answer(Some(forbidden)).await.unwrap();
    assert_eq!(client.text(SERVICES).await.0, 200);
    let (status, object) =
        client.json(&format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3Dkubernetes")).await;
    assert_eq!(status, 403);
    assert_eq!(
        object["message"],
        "services \"kubernetes\" is forbidden: User \"system:serviceaccount:kube-system:apivip\" cannot watch resource \
         \"services\" in API group \"\" in the namespace \"default\""
    );
    control.answer(Some(Canned::html())).await.unwrap();
    assert!(client.text(SERVICES).await.1.starts_with("<!DOCTYPE html>"));
    control.readyz(500).await.unwrap();
    assert_eq!(client.text("/readyz").await.0, 500);
    control.set_faults(&Default::default()).await.unwrap();
    assert_eq!(client.text("/readyz").await, (http::StatusCode::OK, "ok".into()));
}

#[tokio::test]
async fn expired_versions_in_both_forms() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    put_service(&control, 10).await;
    control.bump(Some(20)).await.unwrap();
    control.drop_history().await.unwrap();
    let mut client = fixture.client(bound.api[0], H2).await;
    let path = format!("{SERVICES}?watch=true&resourceVersion=10");
    let mut watch = client.watch(&path).await;
    let (kind, status) = watch.event().await;
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &410.into(), &"Expired".into())
    );
    assert_eq!(watch.next().await, Next::End(String::new()));
    control.adjust(|faults| faults.expired = ExpiredForm::Http).await.unwrap();
    assert_eq!(client.json(&path).await.0, 410);
    let mut watch = client.watch(&format!("{SERVICES}?watch=true&resourceVersion=20")).await;
    control.close_watches().await.unwrap();
    assert_eq!(watch.next().await, Next::End(String::new()));
}

#[tokio::test]
async fn bookmarks_and_the_end_of_time() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    put_service(&control, 10).await;
    let mut client = fixture.client(bound.api[0], H2).await;
    let mut watch =
        client.watch(&format!("{SERVICES}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1")).await;
    assert_eq!(watch.event().await.0, "ADDED");
    let (kind, all) = watch.event().await;
    assert_eq!((kind.as_str(), &all["metadata"]["resourceVersion"]), ("BOOKMARK", &"10".into()));
    control.bump(Some(30)).await.unwrap();
    control.adjust(|faults| faults.bookmark_ms = 50).await.unwrap();
    let mut bookmarks = 0;
    loop {
        match watch.next().await {
            Next::Line(line) => {
                assert!(
                    line.contains(r#""type":"BOOKMARK""#) && line.contains(r#""resourceVersion":"30""#),
                    "{line}"
                );
                bookmarks += 1;
            }
            end => break assert_eq!(end, Next::End(String::new())),
        }
    }
    assert!(bookmarks >= 2, "{bookmarks} bookmarks");
    assert_eq!(control.stats().await.unwrap().watches, []);
}

#[tokio::test]
async fn broken_streams() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    put_service(&control, 10).await;
    let mut client = fixture.client(bound.api[0], HTTP1).await;
    let path = format!("{SERVICES}?watch=true&resourceVersion=10");
    let mut watch = client.watch(&path).await;
    control.inject(Some(Resource::Services), Injection::Large(1 << 20)).await.unwrap();
    let (_, object) = watch.event().await;
    assert_eq!(object["metadata"]["annotations"]["example.com/filler"].as_str().unwrap().len(), 1 << 20);
    control.inject(None, Injection::WrongKind).await.unwrap();
    assert_eq!(watch.event().await.1["kind"], "Pod");
    control.inject(None, Injection::HalfLine).await.unwrap();
    assert!(matches!(watch.next().await, Next::End(half) if half.starts_with("{\"type\"")));
    let mut watch = client.watch(&path).await;
    control.reset(false).await.unwrap();
    assert_eq!(watch.next().await, Next::Broken);
}

#[tokio::test]
async fn silence_and_speech() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    put_service(&control, 10).await;
    let mut client = fixture.client(bound.api[0], H2).await;
    let mut watch = client.watch(&format!("{SERVICES}?watch=true&resourceVersion=10")).await;
    control.hang(true, false).await.unwrap();
    control.bump(Some(11)).await.unwrap();
    put_service(&control, 12).await;
    let silent = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    control.hang(false, false).await.unwrap();
    assert_eq!(watch.event().await.0, "MODIFIED");
}

#[tokio::test]
async fn echo_greets_logs_and_counts() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    let mut stream = BufReader::new(TcpStream::connect(bound.echo[0]).await.unwrap());
    let peer: SocketAddr = stream.get_ref().local_addr().unwrap();
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await.unwrap();
    assert_eq!(greeting, format!("a {peer}\n"));
    stream.write_all(b"12345678").await.unwrap();
    let mut back = [0; 8];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"12345678");
    assert_eq!(control.stats().await.unwrap().echo.open, 1);
    control.reset(true).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let mut client = fixture.client(bound.api[0], H2).await;
    client.text("/version").await;
    let log = access_log::read(&fixture.path("a.log")).unwrap();
    assert!(log.iter().any(|entry| entry.peer == peer && entry.what == What::Echo));
    let agents = log.iter().filter(|entry| {
        matches!(&entry.what, What::Request { user_agent, version, .. } if user_agent == "fixture" && version == "HTTP/2.0")
    });
    assert_eq!(agents.count(), 1);
}
