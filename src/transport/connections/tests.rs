//! How many connections requests need, against servers on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::service::service_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::transport::access::Server;
use crate::transport::failure::ExpectedServer;
use crate::transport::pki::Pki;

const NAME: &str = "kubernetes.default.svc";

/// One address.
struct Only {
    address: SocketAddr,
    dials: Arc<AtomicUsize>,
}

impl DialOrder for Only {
    type Target = SocketAddr;

    fn targets(&self) -> Vec<SocketAddr> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        vec![self.address]
    }

    fn is_configured_server(_: SocketAddr) -> bool {
        false
    }

    fn addresses(&self, target: SocketAddr, _: &[SocketAddr]) -> Vec<SocketAddr> {
        vec![target]
    }

    fn connected(&mut self, _: SocketAddr, _: SocketAddr) {}

    fn dial_failed(&mut self, _: SocketAddr) {}
}

/// A server that speaks one protocol, or none, and the connections of one client to it.
struct Case {
    connections: Connections<Only>,
    dials: Arc<AtomicUsize>,
}

impl Case {
    /// `closes`: after each response of HTTP/1.1.
    async fn start(protocol: Option<&str>, closes: bool) -> Self {
        let pki = Pki::new("ca");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        match protocol {
            Some(protocol) => {
                drop(tokio::spawn(serve(listener, pki.server(NAME, false, &[protocol]), closes)))
            }
            None => drop(listener),
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let expected = ExpectedServer { name: NAME.to_owned(), ca: "a file".to_owned() };
        let dials = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(Mutex::new(Only { address, dials: Arc::clone(&dials) }));
        let server = Server { host: "127.0.0.1".to_owned(), port: address.port() };
        let dialer = Dialer::new(tls, NAME.try_into().unwrap(), server, expected, order);
        Self { connections: Connections::new(dialer, Duration::from_secs(60)), dials }
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    async fn ask(&self) -> Result<Response<Incoming>, SendError> {
        let request = Request::builder().uri(format!("https://{NAME}/version"));
        self.connections.send(request.body(Full::default()).unwrap()).await
    }

    /// Asks, and reads the whole answer.
    async fn read(&self) {
        let Ok(response) = self.ask().await else { panic!("no answer") };
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), NAME);
    }
}

/// Answers with the host that it was asked for.
async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, closes: bool) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let stream = acceptor.accept(stream).await.unwrap();
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let service = service_fn(|request: Request<Incoming>| async move {
            let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
            let host = host.or_else(|| request.uri().host().map(str::to_owned)).unwrap();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(host)))
        });
        let stream = TokioIo::new(stream);
        tokio::spawn(async move {
            let _ = match is_http2 {
                true => {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.serve_connection(stream, service).await
                }
                false => {
                    let mut builder = hyper::server::conn::http1::Builder::new();
                    builder.keep_alive(!closes).serve_connection(stream, service).await
                }
            };
        });
    }
}

#[tokio::test]
async fn http2_has_one_connection_until_it_was_not_used_for_long() {
    let case = Case::start(Some("h2"), false).await;
    tokio::join!(case.read(), case.read(), case.read());
    case.read().await;
    assert_eq!(case.dials(), 1);
    let long_ago = Instant::now().checked_sub(REUSE_LIMIT + Duration::from_secs(1)).unwrap();
    for sender in case.connections.open().iter_mut() {
        let Sender::Http2(_, last) = sender else { panic!("HTTP/1.1") };
        *last = long_ago;
    }
    case.read().await;
    case.read().await;
    assert_eq!((case.dials(), case.connections.open().len()), (2, 1));
}

#[tokio::test]
async fn http1_has_a_connection_for_each_request_under_way() {
    let case = Case::start(Some("http/1.1"), false).await;
    case.read().await;
    case.read().await;
    assert_eq!(case.dials(), 1);
    let case = Case::start(Some("http/1.1"), false).await;
    tokio::join!(case.read(), case.read());
    case.read().await;
    assert_eq!(case.dials(), 2);
}

#[tokio::test]
async fn connection_that_the_server_closed_is_replaced() {
    let case = Case::start(Some("http/1.1"), true).await;
    for dials in 1..=3 {
        case.read().await;
        assert_eq!(case.dials(), dials);
    }
}

#[tokio::test]
async fn failed_dial_counts_for_all_that_wait_for_it() {
    let case = Case::start(None, false).await;
    let (one, other) = tokio::join!(case.ask(), case.ask());
    let (Err(SendError::Dial(one)), Err(SendError::Dial(other))) = (one, other) else { panic!("connected") };
    assert_eq!((one, case.dials()), (other, 1));
    assert!(matches!(case.ask().await, Err(SendError::Dial(_))));
    assert_eq!(case.dials(), 2, "a later request dials again");
}

#[test]
fn http1_names_path_and_host_apart() {
    for (uri, path, host) in [
        ("https://kubernetes.default.svc/api/v1?limit=1", "/api/v1?limit=1", "kubernetes.default.svc"),
        ("https://192.0.2.11:443/version", "/version", "192.0.2.11"),
        ("https://[fd00::11]:6443", "/", "[fd00::11]:6443"),
    ] {
        let mut request = Request::builder().uri(uri).body(Full::default()).unwrap();
        use_origin_form(&mut request);
        assert_eq!(
            (request.uri().to_string().as_str(), request.headers()[HOST].to_str().unwrap()),
            (path, host)
        );
    }
}
