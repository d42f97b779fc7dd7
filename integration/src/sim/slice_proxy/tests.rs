//! The proxy between a client and a server that knows `v1beta1` only.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{Bound, Config, start};
use crate::sim::body::{AnswerBody, full, streamed};
use crate::sim::fixture::{Fixture, NAME, Next};
use crate::tls;

const V1: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const V1BETA1: &str = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices";
const JSON: &str = "application/json";

type Feed = mpsc::Sender<io::Result<Bytes>>;

/// A server with one list and watches that the test feeds.
#[derive(Clone, Default)]
struct Old {
    watches: Arc<Mutex<Vec<Feed>>>,
}

impl Old {
    fn answer(&self, request: &Request<Incoming>) -> Response<AnswerBody> {
        if !request.headers().contains_key("authorization") {
            return full(StatusCode::UNAUTHORIZED, JSON, r#"{"kind":"Status","apiVersion":"v1"}"#);
        }
        match (request.uri().path(), request.uri().query()) {
            ("/readyz", _) => {
                full(StatusCode::OK, "text/plain", request.headers()["x-forwarded-for"].as_bytes().to_vec())
            }
            (V1BETA1, Some(query)) if query.contains("watch=true") => {
                let (feed, body) = AnswerBody::channel();
                self.watches.lock().unwrap().push(feed);
                streamed(JSON, body)
            }
            (V1BETA1, _) => {
                let endpoint =
                    json!({"addresses": ["192.0.2.11"], "topology": {"kubernetes.io/hostname": "n"}});
                let list = json!({
                    "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1beta1",
                    "items": [{"metadata": {"name": "kubernetes"}, "endpoints": [endpoint]}],
                });
                full(StatusCode::OK, JSON, format!("{list:#}\n"))
            }
            _ => full(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n"),
        }
    }

    async fn start(&self, fixture: &Fixture) -> (SocketAddr, JoinHandle<()>) {
        let config = tls::server_config(
            &fixture.path("cert.pem"),
            &fixture.path("key.pem"),
            None,
            tls::ALPN_H2_AND_HTTP1,
        );
        let acceptor = TlsAcceptor::from(config.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let old = self.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, old) = (acceptor.clone(), old.clone());
                connections.spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let service = service_fn(move |request| {
                        std::future::ready(Ok::<_, Infallible>(old.answer(&request)))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        (addr, serving)
    }
}

async fn proxy(fixture: &Fixture, upstream: SocketAddr) -> Bound {
    start(Config {
        name: "proxy".into(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        cert: fixture.path("cert.pem"),
        key: fixture.path("key.pem"),
        upstream: format!("https://{upstream}"),
        upstream_ca: fixture.path("ca.pem"),
        upstream_server_name: Some(NAME.into()),
        access_log: None,
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn lists_and_watches_are_translated() {
    let fixture = Fixture::new();
    let old = Old::default();
    let (upstream, _serving) = old.start(&fixture).await;
    let proxy = proxy(&fixture, upstream).await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let mut client = fixture.client(proxy.addrs[0], &[alpn]).await;
        let (status, list) = client.json(V1).await;
        assert_eq!((status.as_u16(), list["apiVersion"].as_str()), (200, Some("discovery.k8s.io/v1")));
        assert_eq!(list["items"][0]["endpoints"][0], json!({"addresses": ["192.0.2.11"], "nodeName": "n"}));
        assert_eq!(client.json(V1BETA1).await.1["apiVersion"], "discovery.k8s.io/v1beta1");
        assert_eq!(client.text("/readyz").await.1, "127.0.0.1");
        assert_eq!(client.text("/apis/discovery.k8s.io/v1/nothing").await.1, "404 page not found\n");
        assert_eq!(client.raw(V1, None).await.unwrap().status(), 401);
        let mut watch = client.watch(&format!("{V1}?watch=true&resourceVersion=1")).await;
        let feed = old.watches.lock().unwrap().pop().unwrap();
        let event =
            r#"{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1beta1"}}"#;
        // In two pieces: a line is passed on when it is complete, and not later.
        for piece in [&event[..30], &format!("{}\n", &event[30..])] {
            feed.send(Ok(Bytes::from(piece.to_owned()))).await.unwrap();
        }
        assert_eq!(watch.event().await.1["apiVersion"], "discovery.k8s.io/v1");
        drop(feed);
        assert_eq!(watch.next().await, Next::End(String::new()));
    }
}

#[tokio::test]
async fn a_dead_server_takes_its_clients_along() {
    let fixture = Fixture::new();
    let old = Old::default();
    let (upstream, serving) = old.start(&fixture).await;
    let proxy = proxy(&fixture, upstream).await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let mut client = fixture.client(proxy.addrs[0], &[alpn]).await;
        let mut watch = client.watch(&format!("{V1}?watch=true")).await;
        let feed = old.watches.lock().unwrap().pop().unwrap();
        feed.send(Err(io::Error::other("gone"))).await.unwrap();
        assert_eq!(watch.next().await, Next::Broken);
    }
    let mut client = fixture.client(proxy.addrs[0], &[b"h2"]).await;
    let mut watch = client.watch(&format!("{V1}?watch=true")).await;
    serving.abort();
    assert_eq!(watch.next().await, Next::Broken);
    assert!(client.raw("/readyz", None).await.is_err());
    let mut late = tokio::net::TcpStream::connect(proxy.addrs[0]).await.unwrap();
    let read = tokio::io::AsyncReadExt::read_u8(&mut late).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
