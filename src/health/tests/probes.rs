//! One fresh probe: each answer and each failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::server::{NAME, Pki, Server, Valid};
use crate::health::probe::{
    PendingReadyz, ProbeAttempt, ProbeTask, ProberEvent, ProberEventKind, READYZ_TIMEOUT, Target,
    connect_and_handshake, failed, request_readyz,
};
use crate::model::health::{FailReason, ProbeOutcome, ProbeResult};
use crate::transport::readyz::Identity;
use crate::transport::readyz::kept_open::ProbeRequests;

/// Far longer than an answer takes on loopback.
pub(super) const AMPLE: Duration = Duration::from_secs(10);

pub(super) async fn probe(
    address: std::net::SocketAddr,
    identity: &Identity,
    limit: Duration,
) -> (ProbeResult, bool) {
    let (overdue, _told) = mpsc::channel(8);
    let ProbeAttempt { probe, kept, .. } =
        attempt(target(address), identity.clone(), limit, PendingReadyz::default(), overdue).await;
    (probe.unwrap(), kept.is_some())
}

/// The dial and the question, as a prober has one follow the other.
async fn attempt(
    target: Target,
    identity: Identity,
    limit: Duration,
    waiting: PendingReadyz,
    overdue: mpsc::Sender<ProberEvent>,
) -> ProbeAttempt {
    let started = Instant::now();
    let dialled = connect_and_handshake(target.clone(), identity.clone(), Arc::default()).await;
    let asking = ProbeTask { target, identity, started, limit, waiting, overdue };
    match dialled {
        Ok(shaken) => request_readyz(asking, shaken).await,
        Err(error) => failed(asking, error),
    }
}

fn target(address: std::net::SocketAddr) -> Target {
    let name = NAME.try_into().unwrap();
    Target { address, requests: ProbeRequests::new(&name), name }
}

async fn found(server: &Server, pki: &Pki) -> ProbeOutcome {
    probe(server.address, &pki.client(), AMPLE).await.0.outcome
}

#[tokio::test]
async fn what_each_status_means() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let server = Server::start(pki.server(&[protocol])).await;
        for (status, expected) in [
            (200, ProbeOutcome::Ready),
            (401, ProbeOutcome::Ready),
            (403, ProbeOutcome::Ready),
            (500, ProbeOutcome::Unready),
            (503, ProbeOutcome::Unready),
            (429, ProbeOutcome::Unready),
            (404, ProbeOutcome::Unready),
            (302, ProbeOutcome::Unready),
            (204, ProbeOutcome::Unready),
        ] {
            server.say(status);
            let (probe, kept) = probe(server.address, &pki.client(), AMPLE).await;
            assert_eq!(probe.outcome, expected, "{protocol} {status}");
            assert_eq!(kept, status != 401, "{protocol} {status}: the connection can be used again");
            assert!(probe.round_trip.is_some_and(|time| time <= probe.finished - probe.started));
        }
    }
}

#[tokio::test]
async fn nothing_listens() {
    let pki = Pki::new("cluster");
    let address = Server::start(pki.server(&["h2"])).await.kill().await;
    let (probe, kept) = probe(address, &pki.client(), AMPLE).await;
    assert_eq!((probe.outcome, kept), (ProbeOutcome::Failed(FailReason::Refused), false));
}

#[tokio::test]
async fn no_way_there() {
    // TCP does not go to the broadcast address: the kernel says ENETUNREACH and sends nothing.
    let nowhere = "255.255.255.255:6443".parse().unwrap();
    let (probe, _) = probe(nowhere, &Pki::new("cluster").client(), AMPLE).await;
    assert_eq!(probe.outcome, ProbeOutcome::Failed(FailReason::Unreachable));
}

#[tokio::test]
async fn connection_closed_early_is_a_failed_probe() {
    let pki = Pki::new("cluster");
    let at_once = Server::raw(|stream| async move { drop(stream) }).await;
    assert_eq!(found(&at_once, &pki).await, ProbeOutcome::Failed(FailReason::Reset));
    let reset = Server::raw(|stream| async move {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    assert_eq!(found(&reset, &pki).await, ProbeOutcome::Failed(FailReason::Reset));
    for protocol in ["h2", "http/1.1"] {
        let after_tls = Server::raw_tls(pki.server(&[protocol]), |mut stream| async move {
            let mut request = [0; 16];
            let _ = stream.read(&mut request).await;
        })
        .await;
        assert_eq!(found(&after_tls, &pki).await, ProbeOutcome::Failed(FailReason::Reset), "{protocol}");
    }
}

#[tokio::test]
async fn late_answer_counts_and_no_answer_means_unready() {
    let pki = Pki::new("cluster");
    let limit = Duration::from_millis(400);
    for protocol in ["h2", "http/1.1"] {
        let slow = Server::start(pki.server(&[protocol])).await;
        slow.wait_before_answers(limit * 3);
        for (status, expected) in [(200, ProbeOutcome::Ready), (500, ProbeOutcome::Unready)] {
            slow.say(status);
            let (late, kept) = probe(slow.address, &pki.client(), limit).await;
            assert_eq!((late.outcome, kept), (expected, true), "{protocol}");
            assert!(late.handshake.is_some_and(|time| time <= limit), "of TCP and TLS alone");
        }
        slow.wait_before_answers(READYZ_TIMEOUT * 2);
        let (never, kept) = probe(slow.address, &pki.client(), limit).await;
        // Over HTTP/1.1 there is no room for a ping that would tell a busy process from one that is gone.
        let expected =
            if protocol == "h2" { ProbeOutcome::Unready } else { ProbeOutcome::Failed(FailReason::Timeout) };
        assert_eq!((never.outcome, kept), (expected, protocol == "h2"), "{protocol}");
        let took = never.finished - never.started;
        assert!(took >= READYZ_TIMEOUT && took < READYZ_TIMEOUT * 2, "{protocol}: {took:?}");
    }
}

#[tokio::test]
async fn server_stopped_after_the_handshake_is_overdue_and_waited_for() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    server.wait_before_answers(AMPLE);
    let (client, waiting) = (pki.client(), PendingReadyz::default());
    let limit = Duration::from_millis(400);
    let (overdue, mut told) = mpsc::channel(8);
    let attempt = attempt(target(server.address), client.clone(), limit, waiting.clone(), overdue);
    let mut asking = Box::pin(attempt);
    assert_eq!(waiting.count(), 0);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut asking).await.is_err());
    assert_eq!(waiting.count(), 1, "hands were shaken");
    assert!(told.try_recv().is_err(), "pings are answered");
    server.fall_silent();
    let probe = asking.await.probe.unwrap();
    assert_eq!(probe.outcome, ProbeOutcome::Failed(FailReason::Timeout));
    let what = told.try_recv().map(|event| event.what);
    assert!(matches!(what, Ok(ProberEventKind::ConnectOverdue { connected: true, .. })), "{what:?}");
    assert!(probe.finished - probe.started >= READYZ_TIMEOUT, "a late answer is one");
    assert_eq!(waiting.count(), 0);
}

#[tokio::test]
async fn untrusted_certificates_fail_the_probe() {
    let (pki, foreign, namesake) = (Pki::new("cluster"), Pki::new("foreign"), Pki::new("cluster"));
    for (who, tls) in [
        ("expired", pki.server_of(NAME, Valid::Until2021, &["h2"])),
        ("not yet valid", pki.server_of(NAME, Valid::From2090, &["h2"])),
        ("another name", pki.server_of("apiserver.example", Valid::Now, &["h2"])),
        ("another CA", foreign.server(&["h2"])),
        ("another CA of the same name", namesake.server(&["h2"])),
    ] {
        let server = Server::start(tls).await;
        assert_eq!(found(&server, &pki).await, ProbeOutcome::Failed(FailReason::BadCertificate), "{who}");
    }
}

#[tokio::test]
async fn no_tls_and_no_http() {
    let pki = Pki::new("cluster");
    let plain = Server::raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    assert_eq!(found(&plain, &pki).await, ProbeOutcome::Failed(FailReason::Tls));
    for protocol in ["h2", "http/1.1"] {
        let garbage = Server::raw_tls(pki.server(&[protocol]), |mut stream| async move {
            let _ = stream.write_all(&[0xa5; 4096]).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        assert_eq!(found(&garbage, &pki).await, ProbeOutcome::Failed(FailReason::Protocol), "{protocol}");
    }
}

#[tokio::test]
async fn an_http1_server_that_says_close_is_not_kept() {
    let pki = Pki::new("cluster");
    let closing = Server::raw_tls(pki.server(&[]), |mut stream| async move {
        let mut request = vec![0; 1024];
        let _ = stream.read(&mut request).await;
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (probe, kept) = probe(closing.address, &pki.client(), AMPLE).await;
    assert_eq!((probe.outcome, kept), (ProbeOutcome::Ready, false));
}
