//! Servers that answer without end. Each costs a bounded time and a bounded number of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Probing, config};
use super::outcomes::{AMPLE, probe};
use super::pki::Pki;
use super::server::Server;
use crate::health::ProbeConfig;
use crate::model::health::{FailReason, Outcome, State};

/// What a server gets rid of before it is stopped: our allowance and what lies in the kernel's buffers.
const TAKEN: usize = 16 << 20;

/// A server that says `head` and then `rest` for ever. The second value counts its bytes.
async fn endless(
    pki: &Pki,
    protocol: &str,
    head: &'static [u8],
    rest: &'static [u8],
) -> (Server, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let server = Server::raw_tls(pki.server(&[protocol]), move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut request = vec![0; 1024];
            let _ = stream.read(&mut request).await;
            let mut next = stream.write_all(head).await;
            let rest = rest.repeat(4096 / rest.len() + 1);
            while next.is_ok() {
                next = stream.write_all(&rest).await;
                count.fetch_add(rest.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    (server, sent)
}

/// An HTTP/2 frame without payload that needs no stream: SETTINGS.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1 with END_HEADERS: `:status: 100`, which is no final answer.
const CONTINUE: &[u8] = b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\x48\x03100";
/// HEADERS of stream 1 without END_HEADERS, `:status: 200`, and a CONTINUATION of one field.
const OPEN_HEADERS: &[u8] = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88";
const CONTINUATION: &[u8] = b"\x00\x00\x05\x09\x00\x00\x00\x00\x01\x40\x01a\x01b";
/// A PING.
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_end() {
    let pki = Pki::new("cluster");
    let settings_and = |frame: &[u8]| -> &'static [u8] { [SETTINGS, frame].concat().leak() };
    for (what, protocol, head, rest) in [
        ("a header", "http/1.1", &b"HTTP/1.1 200 OK\r\nA: "[..], &b"a"[..]),
        ("headers", "http/1.1", b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        ("interim answers", "http/1.1", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("settings", "h2", SETTINGS, SETTINGS),
        ("pings", "h2", SETTINGS, PING),
        ("interim answers", "h2", SETTINGS, CONTINUE),
        ("continuations", "h2", settings_and(OPEN_HEADERS), CONTINUATION),
    ] {
        let (server, sent) = endless(&pki, protocol, head, rest).await;
        let (probe, kept) = probe(server.address, &pki.client(), AMPLE).await;
        assert!(matches!(probe.outcome, Outcome::Failed(_)), "{protocol} {what}: {:?}", probe.outcome);
        assert_ne!(probe.outcome, Outcome::Failed(FailReason::Timeout), "{protocol} {what}");
        assert!(!kept);
        assert!(sent.load(Ordering::Relaxed) < TAKEN, "{protocol} {what}: {sent:?} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_is_not_read() {
    let pki = Pki::new("cluster");
    let (server, sent) =
        endless(&pki, "http/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"ok").await;
    let (found, kept) = probe(server.address, &pki.client(), AMPLE).await;
    assert_eq!((found.outcome, kept), (Outcome::Ready, false));
    assert!(sent.load(Ordering::Relaxed) < TAKEN);
    let dribbling = Server::raw_tls(pki.server(&["http/1.1"]), |mut stream| async move {
        let _ = stream.read(&mut vec![0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
        while stream.write_all(b"o").await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (found, kept) = probe(dribbling.address, &pki.client(), AMPLE).await;
    assert_eq!((found.outcome, kept), (Outcome::Ready, false));
    assert!(found.finished - found.started < AMPLE / 2);
}

/// Answers well, and then sends PINGs without end: its connection is not kept, and it is not asked in a burst for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_floods_the_kept_connection() {
    let pki = Pki::new("cluster");
    let flooding = Server::raw_tls(pki.server(&["h2"]), |mut stream| async move {
        let _ = stream.read(&mut vec![0; 1024]).await;
        // `:status: 200` with END_STREAM and END_HEADERS.
        let answer = [SETTINGS, b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88"].concat();
        let _ = stream.write_all(&answer).await;
        let _ = stream.flush().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let flood = PING.repeat(1000);
        while stream.write_all(&flood).await.is_ok() {}
    })
    .await;
    let config = ProbeConfig { interval: Duration::from_secs(1), ..config() };
    let mut probing = Probing::start(config, pki.client());
    probing.publish(&[flooding.address]);
    probing.until_state(flooding.address, State::Healthy).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = flooding.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let more = flooding.connections() - before;
    let found = &probing.counted;
    println!("{more} connections in 3 s, {found:?}");
    assert!(more <= 30, "{more} connections in 3 s at one each second, {found:?}; a burst makes 60");
}
