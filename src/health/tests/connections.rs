//! The kept-open connection: one for each backend, its end is a sign, and servers that answer without end cost a
//! bounded time and a bounded number of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Probing, config};
use super::probes::{AMPLE, probe};
use super::server::{Pki, Server};
use crate::health::ProbeConfig;
use crate::model::health::{FailReason, HealthState, ProbeOutcome};

#[tokio::test]
async fn one_connection_serves_all_questions() {
    let pki = Pki::new("cluster");
    let h2 = Server::start(pki.server(&["h2", "http/1.1"])).await;
    let h1 = Server::start(pki.server(&["http/1.1"])).await;
    let mut probing = Probing::start(config(), pki.client());
    let backends = [h2.address, h1.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy)).await;
    // A burst may have begun a second one before the first was answered.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = h2.connections() + h1.connections();
    probing.publish(&backends);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let more = h2.connections() + h1.connections() - before;
    assert!(more <= 2, "{more} further connections; one for each interval would be 26");
    assert!(probing.counted.of("alive") >= 4, "pings each 300 ms for 4 s");
    assert!((2..=12).contains(&h2.questions()) && (2..=12).contains(&h1.questions()), "readyz each second");
    let health = probing.view().backends[&h2.address];
    assert!(health.answering && health.round_trip.is_some_and(|time| time < Duration::from_secs(1)));
}

/// Two servers that are asked and Up.
async fn two_up(pki: &Pki, protocol: &str) -> (Server, Server, Probing) {
    let one = Server::start(pki.server(&[protocol])).await;
    let other = Server::start(pki.server(&[protocol])).await;
    let mut probing = Probing::start(config(), pki.client());
    let backends = [one.address, other.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy)).await;
    (one, other, probing)
}

#[tokio::test]
async fn killed_process_is_down_at_once() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let (victim, witness, mut probing) = two_up(&pki, protocol).await;
        let killed = std::time::Instant::now();
        let address = victim.kill().await;
        let view = probing.until_state(address, HealthState::Suspect).await;
        let health = view.backends[&address];
        println!("{protocol}: Suspect {:?} after the kill, by the decision's time", health.since - killed);
        assert!(health.since - killed < Duration::from_secs(2), "about 55 ms: {:?}", health.since - killed);
        assert!(
            !health.end_flows && health.challenge_at.is_none_or(|ask| ask >= killed),
            "its host told its clients"
        );
        assert!(health.noticed <= health.since && view.noticed >= health.noticed);
        assert_eq!(view.state(witness.address), HealthState::Healthy);
        let _again = Server::start_at(address, pki.server(&[protocol])).await;
        let view = probing.until_state(address, HealthState::Healthy).await;
        assert!(view.backends[&address].answering);
    }
}

#[tokio::test]
async fn server_that_stops_reading_is_down() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let (victim, witness, mut probing) = two_up(&pki, protocol).await;
        let stopped = std::time::Instant::now();
        victim.fall_silent();
        let view = probing.until_state(victim.address, HealthState::Suspect).await;
        let took = view.backends[&victim.address].since - stopped;
        println!("{protocol}: Suspect {took:?} after it stopped, with a ping each 300 ms");
        assert!(took < Duration::from_secs(10), "about 1 s: {took:?}");
        assert_eq!(view.state(witness.address), HealthState::Healthy);
    }
}

/// The first connections end with GOAWAY, as an apiserver's do that is stopped, or that sheds connections.
#[tokio::test]
async fn goaway_triggers_probes_and_is_no_failure() {
    let pki = Pki::new("cluster");
    let server = Server::raw_tls(pki.server(&["h2"]), |mut stream| async move {
        let _ = stream.read(&mut vec![0; 1024]).await;
        let answer = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88";
        let _ = stream.write_all(answer).await;
        let _ = stream.flush().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ =
            stream.write_all(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00").await;
        let _ = stream.flush().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, HealthState::Healthy).await;
    probing.until(|view| !view.backends[&server.address].answering).await;
    probing.until(|view| view.backends[&server.address].answering).await;
    let health = probing.view().backends[&server.address];
    assert_eq!((health.state, health.failure), (HealthState::Healthy, None));
}

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
async fn endless_responses_are_bounded() {
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
        assert!(matches!(probe.outcome, ProbeOutcome::Failed(_)), "{protocol} {what}: {:?}", probe.outcome);
        assert_ne!(probe.outcome, ProbeOutcome::Failed(FailReason::Timeout), "{protocol} {what}");
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
    assert_eq!((found.outcome, kept), (ProbeOutcome::Ready, false));
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
    assert_eq!((found.outcome, kept), (ProbeOutcome::Ready, false));
    assert!(found.finished - found.started < AMPLE / 2);
}

/// Answers well, and then sends PINGs without end: its connection is not kept, and it is not asked in a burst for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flooding_the_kept_connection_closes_it() {
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
    probing.until_state(flooding.address, HealthState::Healthy).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = flooding.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let more = flooding.connections() - before;
    let found = &probing.counted;
    println!("{more} connections in 3 s, {found:?}");
    assert!(more <= 30, "{more} connections in 3 s at one each second, {found:?}; a burst makes 60");
}
