//! HTTP/1.1 as plain as it gets, over one TLS connection that is kept open.
//!
//! In: a target. Out: a stream on which requests are written and answers read, with the client's own view of every
//! error. No library stands in between that would hide how a connection ended.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sim::load::config::TlsKind;
use crate::sim::load::failure::{Failure, Reason};
use crate::tls;

/// Longer than any head of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// How a connection ended.
pub(super) enum Broken {
    /// The server said that it sends no more.
    Closed,
    /// Anything worse.
    Failed(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What every connection of a run shares.
pub(super) struct Https {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    head: String,
}

/// An open connection, with bytes that were read too far.
pub(super) struct Session {
    stream: TlsStream<TcpStream>,
    ahead: Vec<u8>,
}

impl Https {
    pub(super) fn new(kind: &TlsKind) -> Result<Self> {
        let server_name = ServerName::try_from(kind.server_name.clone())
            .with_context(|| format!("server name {:?}", kind.server_name))?;
        let token = kind.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let head =
            format!("Host: {}\r\nUser-Agent: clients\r\n{}", kind.server_name, token.unwrap_or_default());
        Ok(Self { config: tls::client_config(&kind.ca, &[b"http/1.1"])?, server_name, head })
    }

    pub(super) async fn open(&self, stream: TcpStream) -> Result<Session, Failure> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(self.server_name.clone(), stream).await;
        let stream = stream.map_err(|error| Failure::io("TLS handshake", &error))?;
        Ok(Session { stream, ahead: Vec::new() })
    }

    /// A request without body.
    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head).into_bytes()
    }

    /// A request with this body.
    pub(super) fn post(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            self.head
        )
        .into_bytes();
        request.extend_from_slice(body);
        request
    }
}

impl Session {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| Failure::io("send", &error).into())
    }

    /// Says that nothing more will be sent.
    pub(super) async fn finish(&mut self) -> Result<(), Broken> {
        self.stream.shutdown().await.map_err(|error| Failure::io("half-close", &error).into())
    }

    /// Reads the head of a good answer; returns the length of its body where it tells it.
    pub(super) async fn head(&mut self) -> Result<Option<usize>, Broken> {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if self.ahead.len() > MAX_HEAD {
                return Err(Failure::new(Reason::WrongAnswer, "the head of the answer does not end").into());
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
        self.ahead.drain(..end + 4);
        let status = head.lines().next().unwrap_or_default();
        if !status.starts_with("HTTP/1.1 20") {
            return Err(Failure::new(Reason::WrongAnswer, status).into());
        }
        Ok(head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        }))
    }

    /// Reads a whole good answer and tells of each piece of it.
    pub(super) async fn answer(&mut self, mut progress: impl FnMut()) -> Result<(), Broken> {
        let length = self.head().await?;
        let length = length.ok_or_else(|| Failure::new(Reason::WrongAnswer, "no Content-Length"))?;
        let mut left = length;
        loop {
            progress();
            let taken = left.min(self.ahead.len());
            self.ahead.drain(..taken);
            left -= taken;
            if left == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    /// Reads what comes next. The end of the stream is an error.
    pub(super) async fn more(&mut self) -> Result<(), Broken> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(0) => Err(Broken::Closed),
            Ok(length) => {
                self.ahead.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Broken::Closed),
            Err(error) => Err(Failure::io("read", &error).into()),
        }
    }

    /// Reads what comes next, and forgets it. Losing this future loses nothing.
    pub(super) async fn skip(&mut self) -> Result<(), Broken> {
        self.ahead.clear();
        self.more().await
    }

    /// Reads and forgets until the connection ends.
    pub(super) async fn drain(&mut self, mut progress: impl FnMut()) -> Broken {
        loop {
            match self.skip().await {
                Ok(()) => progress(),
                Err(broken) => return broken,
            }
        }
    }
}
