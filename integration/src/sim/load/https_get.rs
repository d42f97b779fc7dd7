//! One GET over TLS, as small as a client can make it.
//!
//! In: a connected stream and TLS settings. Out: success only for a complete answer with status 200 from a server
//! whose certificate was verified.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::TlsKind;
use super::failure::{Failure, Reason};
use crate::tls;

/// Far more than a health check says.
const MAX_ANSWER: u64 = 64 * 1024;

/// Prepared once, used by every attempt.
pub(crate) struct HttpsGet {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    request: String,
}

impl HttpsGet {
    pub(crate) fn new(kind: &TlsKind, path: &str) -> Result<Self> {
        let mut config = Arc::unwrap_or_clone(tls::client_config(&kind.ca, &[b"http/1.1"])?);
        // Every attempt has to see the certificate: a resumed session would not.
        config.resumption = rustls::client::Resumption::disabled();
        let server_name = ServerName::try_from(kind.server_name.clone())
            .with_context(|| format!("server name {:?}", kind.server_name))?;
        let token = kind.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: load\r\nConnection: close\r\n{}\r\n",
            kind.server_name,
            token.unwrap_or_default()
        );
        Ok(Self { config: Arc::new(config), server_name, request })
    }

    pub(crate) async fn get(&self, stream: TcpStream) -> Result<(), Failure> {
        let connector = TlsConnector::from(self.config.clone());
        let mut stream = connector
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(|error| Failure::io("TLS handshake", &error))?;
        let answer = async {
            stream.write_all(self.request.as_bytes()).await?;
            stream.flush().await?;
            let mut answer = Vec::new();
            (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = answer.await.map_err(|error| Failure::io("GET", &error))?;
        check(&answer).map_err(|detail| Failure::new(Reason::WrongAnswer, detail))
    }
}

/// A complete answer with status 200.
fn check(answer: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(format!("no complete HTTP answer in {} bytes", answer.len()));
    };
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(status.to_owned());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match length {
        Some(Ok(length)) if length != body.len() => Err(format!("{} of {length} bytes of body", body.len())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_a_complete_ok_counts() {
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok());
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Le").is_err());
        assert_eq!(check(b"HTTP/1.1 401 Unauthorized\r\n\r\n").unwrap_err(), "HTTP/1.1 401 Unauthorized");
        assert!(check(b"").is_err());
    }
}
