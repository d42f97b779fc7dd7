//! For the tests of this folder: a CA with one certificate, and a client that speaks to a server on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::apiserver::{self, Bound, Config};
use super::control::Control;
use super::https::{self, Sender};
use crate::tls;

/// The name in the certificate.
pub(crate) const NAME: &str = "kubernetes.default.svc";
/// The token that the fixture's server accepts.
pub(crate) const TOKEN: &str = "s3cret";
/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Files of one test.
pub(crate) struct Fixture {
    dir: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(fixture.path("ca.pem"), ca_cert.pem()).unwrap();
        std::fs::write(fixture.path("cert.pem"), cert.pem()).unwrap();
        std::fs::write(fixture.path("key.pem"), key.serialize_pem()).unwrap();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self, name: &str) -> Config {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            name: name.to_owned(),
            listen: vec![loopback],
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: Some(self.path("ca.pem")),
            tokens: vec![TOKEN.to_owned()],
            control: self.path(&format!("{name}.sock")),
            access_log: Some(self.path(&format!("{name}.log"))),
            echo: vec![loopback],
        }
    }

    pub(crate) async fn apiserver(&self, name: &str) -> (Bound, Control) {
        let config = self.config(name);
        let control = Control::new(&config.control);
        (apiserver::start(config).await.unwrap(), control)
    }

    pub(crate) async fn client(&self, addr: SocketAddr, alpn: &[&[u8]]) -> Client {
        let config = tls::client_config(&self.path("ca.pem"), alpn).unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let (sender, driver) = https::connect(stream, config, NAME.try_into().unwrap()).await.unwrap();
        tokio::spawn(driver);
        Client { sender, authority: addr.to_string() }
    }
}

/// A client with one connection.
pub(crate) struct Client {
    pub(crate) sender: Sender,
    authority: String,
}

impl Client {
    pub(crate) async fn raw(&mut self, path: &str, token: Option<&str>) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::get(format!("https://{}{path}", self.authority))
            .header(header::HOST, self.authority.as_str())
            .header(header::USER_AGENT, "fixture");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Either::Left(Full::default())).unwrap();
        tokio::time::timeout(PATIENCE, self.sender.send(request)).await.expect("an answer in time")
    }

    /// Status and whole body with the right token.
    pub(crate) async fn text(&mut self, path: &str) -> (StatusCode, String) {
        let answer = self.raw(path, Some(TOKEN)).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn json(&mut self, path: &str) -> (StatusCode, Value) {
        let (status, text) = self.text(path).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}")))
    }

    /// A watch with the right token.
    pub(crate) async fn watch(&mut self, path: &str) -> Lines {
        let answer = self.raw(path, Some(TOKEN)).await.unwrap();
        assert_eq!(answer.status(), 200);
        Lines { body: answer.into_body(), buffer: Vec::new() }
    }
}

/// How a stream went on.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Line(String),
    /// Clean end, with what came after the last newline.
    End(String),
    Broken,
}

/// The lines of a streamed answer.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn next(&mut self) -> Next {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("a line in time")
    }

    /// The next line as type and object.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        match self.next().await {
            Next::Line(line) => {
                let event: Value = serde_json::from_str(&line).unwrap();
                (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
            }
            other => panic!("no event but {other:?}"),
        }
    }

    async fn read(&mut self) -> Next {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Next::Line(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            match self.body.frame().await {
                None => return Next::End(String::from_utf8_lossy(&self.buffer).into_owned()),
                Some(Err(_)) => return Next::Broken,
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_else(|_| Bytes::new())),
            }
        }
    }
}
