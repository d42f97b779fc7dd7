//! The whole of a test against servers on loopback that answer well, badly, or not at all.

use std::sync::Mutex;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use rustls::ClientConfig;

use crate::model::desired::{DesiredFrontend, DesiredState, SourcePolicy};
use crate::model::health::FailReason;
use crate::model::snapshot::Affinity;

const NAME: &str = "kubernetes.default.svc";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the kernel would say, as the test has it.
struct Scripted {
    trace: Option<ConnectionTrace>,
    expected: Mutex<Vec<u16>>,
    forwards: bool,
}

impl ConnectionEvidence for Scripted {
    fn expect(&self, port: u16) {
        self.expected.lock().unwrap().push(port);
    }

    fn accepted(&self, port: u16) -> Option<SocketAddr> {
        assert!(self.expected.lock().unwrap().contains(&port), "nobody expected {port}");
        self.forwards.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn counted(&self, _: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>> {
        Some(BTreeMap::new())
    }

    fn forwarded_counts(&self, _: Vip) -> Option<ForwardedCounts> {
        None
    }

    fn trace(&self, _: SocketAddr, _: Vip, _: &BTreeSet<Backend>) -> Option<ConnectionTrace> {
        self.trace
    }
}

struct ResultSender(mpsc::UnboundedSender<SelfTestResult>);

impl SelfTestObserver for ResultSender {
    fn tested(&self, vip: Vip, results: &SelfTestResults) {
        let _ = self.0.send(results[&vip].clone());
    }
}

struct Server {
    address: SocketAddr,
    trust: Arc<ClientConfig>,
    /// How each connection ended: with a close in order, or not.
    ends: mpsc::UnboundedReceiver<std::io::Result<usize>>,
}

/// Answers each connection with `answer`, and reads to its end.
async fn server(answer: &'static str) -> Server {
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let der = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let trust = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let size = stream.read(&mut request).await.unwrap();
            assert!(request[..size].starts_with(b"GET /readyz HTTP/1.1\r\nHost: kubernetes.default.svc\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = ended.send(stream.read(&mut request).await);
        }
    });
    Server { address, trust: Arc::new(trust), ends }
}

fn report(vip: Vip, backends: &[Backend]) -> Report {
    let frontend = |port_name: &str, vip: Vip| DesiredFrontend {
        vip,
        port_name: port_name.to_owned(),
        affinity: Affinity::None,
        backends: backends.to_vec(),
        failed: Vec::new(),
        local_route_allowed: true,
    };
    // The other port is not tested: nothing listens there, and a test of it would fail.
    let other = SocketAddr::new(vip.ip(), 1);
    let state = DesiredState {
        service: "default/kubernetes".parse().unwrap(),
        frontends: vec![frontend("echo", other), frontend("https", vip)],
        source: SourcePolicy::default(),
        forwarding: false,
    };
    Report { programmed: Some(Arc::new(state)), ..Report::default() }
}

/// The first `count` results.
async fn results(
    vip: Vip,
    trust: &Arc<ClientConfig>,
    scripted: Scripted,
    count: usize,
) -> Vec<SelfTestResult> {
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let (_identity, identity) = watch::channel(Identity::anonymous(Arc::clone(trust)));
    let (_reports, reports) = watch::channel(report(vip, &[]));
    let (results, _receiver) = watch::channel(SelfTestResults::new());
    let config =
        SelfTestConfig { interval: Duration::from_millis(10), server_name: NAME.try_into().unwrap() };
    let test = run(config, identity, reports, Arc::new(scripted), Arc::new(ResultSender(sender)), results);
    let test = tokio::spawn(test);
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("a result in time").unwrap());
    }
    test.abort();
    seen
}

fn scripted(trace: Option<ConnectionTrace>, forwards: bool) -> Scripted {
    Scripted { trace, expected: Mutex::default(), forwards }
}

#[tokio::test]
async fn answer_means_ready_and_the_connection_closes_cleanly() {
    let mut server = server("HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nfour").await;
    let seen = results(server.address, &server.trust, scripted(None, true), 2).await;
    for latest in seen {
        assert!(latest.outcome.is_ok() && latest.is_ready() && latest.failures == 0, "{latest:?}");
        assert_eq!(latest.by, Some(Component::Forwarder));
    }
    let end = tokio::time::timeout(PATIENCE, server.ends.recv()).await.unwrap().unwrap();
    assert_eq!(end.unwrap(), 0, "TLS was closed by a notice");
}

#[tokio::test]
async fn invalid_answer_is_a_failure_with_reason_and_component() {
    let own = ConnectionTrace { own_socket: true, ..ConnectionTrace::default() };
    for (answer, failure) in [
        ("HTTP/1.1 500 Internal Server Error\r\n\r\n", SelfTestFailure::Unready),
        ("HTTP/1.1 404 Not Found\r\n\r\n", SelfTestFailure::Unready),
        ("220 mail.example ESMTP\r\n", SelfTestFailure::Failed(FailReason::Protocol)),
        ("", SelfTestFailure::Failed(FailReason::Timeout)),
    ] {
        let server = server(answer).await;
        let latest = results(server.address, &server.trust, scripted(Some(own), false), 1).await.remove(0);
        assert_eq!(latest.outcome, Err(failure), "{answer:?}");
        assert_eq!(latest.by, Some(Component::LocalListener));
        assert!(!latest.is_ready());
    }
}

#[tokio::test]
async fn untrusted_certificate_and_closed_port_are_distinguished() {
    let (server, other) = (server("").await, server("").await);
    let seen = results(server.address, &other.trust, scripted(None, false), 2).await;
    assert_eq!(seen[1].outcome, Err(SelfTestFailure::Failed(FailReason::BadCertificate)));
    assert_eq!((seen[1].failures, seen[1].by), (2, Some(Component::Unknown)));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let seen = results(closed, &server.trust, scripted(None, false), 1).await;
    assert_eq!((seen[0].outcome, seen[0].by), (Err(SelfTestFailure::Failed(FailReason::Refused)), None));
}
