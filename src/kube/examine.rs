//! One look at one apiserver, step by step: TCP, TLS, `/readyz`, and what its answer says of its clock.
//!
//! In: an address, and whom to trust. Out: an [`Examined`], which says how far it got. No credentials are shown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::process::clock::unix_now;
use crate::transport::access::{Access, Lifetime, lifetime};
use crate::transport::explain::{Expected, explain};
use crate::transport::words::plain;

/// Of the answer, the head is all that is looked at.
const HEAD_BYTES: usize = 8 << 10;

/// Whom to trust, and by which name.
#[derive(Clone)]
pub struct Trust {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    expected: Expected,
}

impl Trust {
    /// That of the daemon: the cluster's CA, and the name that certificates must carry.
    ///
    /// # Errors
    /// One line: the CA or the name cannot be used.
    pub fn new(access: &Access, name: Option<&str>) -> Result<Self, String> {
        let mut tls = access.trust()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let shown = name.unwrap_or(access.tls_name()).to_owned();
        let name = match name {
            None => access.server_name(),
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| format!("{name:?} is neither a DNS name nor an IP address"))?,
        };
        Ok(Self { tls: Arc::new(tls), name, expected: Expected { name: shown, ca: access.ca().to_owned() } })
    }

    /// The name that a certificate must carry.
    pub fn name(&self) -> &str {
        &self.expected.name
    }
}

/// Whether an apiserver that shows this chain now, its own certificate first and each in DER, is believed.
///
/// # Errors
/// Why not, as one line.
pub fn believes(access: &Access, chain: &[Vec<u8>]) -> Result<(), String> {
    let (verifier, name) = (access.verifier()?, access.server_name());
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, issuers) = chain.split_first().ok_or("it shows no certificate")?;
    let verified = verifier.verify_server_cert(leaf, issuers, &name, &[], UnixTime::now());
    let expected = Expected { name: access.tls_name().to_owned(), ca: access.ca().to_owned() };
    verified.map(drop).map_err(|error| explain(&error, &expected))
}

/// How far a look got; a step that was not reached is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Who was looked at.
    pub address: SocketAddr,
    /// How long the TCP handshake took, or why there was none.
    pub connected: Result<Duration, String>,
    /// The lifetime of its certificate, which was verified, or why TLS failed.
    pub secured: Option<Result<Option<Lifetime>, String>>,
    /// What it answered to `/readyz`, or why not.
    pub answered: Option<Result<Ready, String>>,
}

/// An answer to `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The HTTP status.
    pub status: u16,
    /// By how many seconds the server's clock is ahead of this node's, as far as its `Date` header says.
    pub clock_ahead: Option<i64>,
}

/// Looks. Ends within `limit`.
pub async fn examine(address: SocketAddr, trust: Option<Trust>, limit: Duration) -> Examined {
    let mut examined = Examined { address, connected: Err(late(limit)), secured: None, answered: None };
    // What was found in time stays, whatever the clock says of the rest.
    let _ = timeout(limit, steps(&mut examined, trust, limit)).await;
    examined
}

async fn steps(examined: &mut Examined, trust: Option<Trust>, limit: Duration) {
    let begin = Instant::now();
    let stream = match TcpStream::connect(examined.address).await {
        Ok(stream) => stream,
        Err(error) => {
            examined.connected = Err(plain(&error));
            return;
        }
    };
    examined.connected = Ok(begin.elapsed());
    let Some(Trust { tls, name, expected }) = trust else { return };
    examined.secured = Some(Err(late(limit)));
    let mut stream = match TlsConnector::from(tls).connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) => {
            examined.secured = Some(Err(explain(&error, &expected)));
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    examined.secured = Some(Ok(certificates.and_then(|all| lifetime(all.first()?))));
    examined.answered = Some(Err(late(limit)));
    let request = format!(
        "GET /readyz HTTP/1.1\r\nHost: {}\r\nUser-Agent: apivip/{}\r\nConnection: close\r\n\r\n",
        expected.name,
        env!("CARGO_PKG_VERSION")
    );
    let mut head = Vec::new();
    let answered = async {
        stream.write_all(request.as_bytes()).await?;
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    };
    let answered: io::Result<()> = answered.await;
    examined.answered = Some(match answered {
        Err(error) => Err(explain(&error, &expected)),
        Ok(()) => {
            ready(&head, unix_now().cast_signed()).ok_or_else(|| "what it answers is not HTTP".to_owned())
        }
    });
}

fn late(limit: Duration) -> String {
    format!("no answer within {:.1} s", limit.as_secs_f32())
}

/// Reads the head of an answer that arrived at `now`, in seconds since 1970.
fn ready(head: &[u8], now: i64) -> Option<Ready> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let date = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    });
    Some(Ready { status, clock_ahead: date.and_then(seconds).map(|date| date - now) })
}

/// Reads a date in the form that HTTP prescribes (RFC 9110, section 5.6.7), as seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? / 3 + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = words.next()?.split(':').map(str::parse::<i64>);
    let mut part = || clock.next()?.ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    // Years begin in March here, so that the leap day comes last.
    let month = i64::try_from(month).ok()?;
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for bad in ["", "yesterday", "Sun, 06 anF 1994 08:49:37 GMT", "Sun, x Nov 1994 1:1:1 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_tells_status_and_clock() {
        let head = b"HTTP/1.1 200 OK\r\nX: y\r\ndate: Thu, 01 Jan 1970 00:01:00 GMT\r\n\r\nok";
        assert_eq!(ready(head, 50), Some(Ready { status: 200, clock_ahead: Some(10) }));
        assert_eq!(ready(b"HTTP/1.0 500 x\r\n\r\n", 0), Some(Ready { status: 500, clock_ahead: None }));
        assert_eq!(ready(b"SSH-2.0-OpenSSH\r\n\r\n", 0), None);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(head: Vec<u8>, text: String) {
            let _ = ready(&head, 0);
            let _ = seconds(&text);
            let _ = seconds(&format!("x, {text}"));
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_left_after_the_limit() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let examined = examine(address, None, Duration::from_millis(200)).await;
        assert!(examined.connected.is_ok() && examined.secured.is_none());
        drop(listener);
        let examined = examine(address, None, Duration::from_secs(5)).await;
        assert_eq!(examined.connected, Err("connection refused".to_owned()));
    }
}
