//! The judge is judged: every way to fail has to be seen, and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::config::{Config, Kind, TlsKind};
use super::report::{Reason, Report};
use super::{Observer, run};
use crate::sim::fixture::{Fixture, NAME, TOKEN};

#[derive(Default)]
struct Heard {
    started: usize,
    progress: usize,
}

impl Observer for Heard {
    fn started(&mut self) {
        self.started += 1;
    }

    fn progress(&mut self, _: &Report) {
        self.progress += 1;
    }
}

fn config(target: SocketAddr, kind: Kind) -> Config {
    Config {
        kind,
        timeout: Duration::from_millis(800),
        ..Config::new(target, 200.0, Duration::from_millis(500))
    }
}

async fn judged(config: Config) -> (Report, Heard) {
    let mut heard = Heard::default();
    let report = run(config.validated().unwrap(), std::future::pending(), &mut heard).await.unwrap();
    assert_eq!(report.attempted, 100);
    (report, heard)
}

fn all_failed(report: &Report, reason: Reason) {
    assert_eq!((report.failed, report.ok), (100, 0), "{report}");
    assert_eq!(report.failed_by.get(&reason), Some(&100), "{report}");
    assert_eq!(report.failures.len(), 20);
    assert!(report.failures.iter().all(|failure| failure.local.is_some()), "{report}");
    assert!(!report.clean());
}

/// A listener that does `act` with every connection.
async fn server<F: Future<Output = ()> + Send + 'static>(act: fn(tokio::net::TcpStream) -> F) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            act(stream).await;
        }
    });
    addr
}

#[tokio::test]
async fn healthy_targets_are_found_healthy() {
    let fixture = Fixture::new();
    let (one, control_one) = fixture.apiserver("one").await;
    let (two, control_two) = fixture.apiserver("two").await;
    let mut echo = config(one.echo[0], Kind::Echo);
    echo.targets.push(two.echo[0]);
    echo.sources = vec!["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
    echo.established = 10;
    echo.report_every = Some(Duration::from_millis(100));
    let (report, heard) = judged(echo).await;
    assert!(report.clean(), "{report}");
    assert_eq!(report.ok, 100);
    assert_eq!((report.servers["one"], report.servers["two"]), (50, 50));
    assert_eq!((report.seen_as["127.0.0.2"], report.seen_as["127.0.0.3"]), (50, 50));
    assert!(report.total_us.p50 > 0 && report.total_us.p50 <= report.total_us.max);
    assert_eq!((report.established.opened, heard.started), (10, 1));
    assert!(report.established.exchanges >= 10 && heard.progress >= 1);
    let accepted =
        control_one.stats().await.unwrap().echo.accepted + control_two.stats().await.unwrap().echo.accepted;
    assert_eq!(accepted, 110);
    let (report, _) = judged(config(one.api[0], Kind::Tcp)).await;
    assert!(report.clean(), "{report}");
}

#[tokio::test]
async fn tls_is_verified_and_the_answer_read() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    let kind = |name: &str, token: &str| {
        Kind::Tls(TlsKind { ca: fixture.path("ca.pem"), server_name: name.into(), token: Some(token.into()) })
    };
    // Handshakes are slow in unoptimised builds.
    let patient = |kind| Config { timeout: Duration::from_secs(20), ..config(bound.api[0], kind) };
    let (report, _) = judged(patient(kind(NAME, TOKEN))).await;
    assert!(report.clean(), "{report}");
    assert_eq!(control.stats().await.unwrap().requests_of("get", "/readyz"), 100);
    all_failed(&judged(patient(kind("other.example", TOKEN))).await.0, Reason::Tls);
    all_failed(&judged(patient(kind(NAME, "wrong"))).await.0, Reason::WrongAnswer);
    control.readyz(500).await.unwrap();
    all_failed(&judged(patient(kind(NAME, TOKEN))).await.0, Reason::WrongAnswer);
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (report, heard) = judged(config(addr, Kind::Tcp)).await;
    all_failed(&report, Reason::Refused);
    assert_eq!(heard.started, 0);
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    control.hang(true, true).await.unwrap();
    let (report, _) = judged(config(bound.echo[0], Kind::Echo)).await;
    all_failed(&report, Reason::Timeout);
    assert!(report.failures[0].after_ms >= 800);
}

#[tokio::test]
async fn resets_and_early_ends_are_seen() {
    let reset = server(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    all_failed(&judged(config(reset, Kind::Echo)).await.0, Reason::Reset);
    let closed = server(|mut stream| async move { stream.shutdown().await.unwrap() }).await;
    all_failed(&judged(config(closed, Kind::Echo)).await.0, Reason::Reset);
}

#[tokio::test]
async fn wrong_words_are_seen() {
    let wrong =
        server(|mut stream| async move { stream.write_all(b"220 smtp ready\r\n").await.unwrap() }).await;
    all_failed(&judged(config(wrong, Kind::Echo)).await.0, Reason::WrongAnswer);
}

#[tokio::test]
async fn an_unusable_source_is_told_as_other() {
    let mut config = config("127.0.0.1:1".parse().unwrap(), Kind::Tcp);
    config.sources = vec!["192.0.2.77".parse().unwrap()];
    let (report, _) = judged(config).await;
    assert_eq!(report.failed_by.get(&Reason::Other), Some(&100), "{report}");
}

#[tokio::test]
async fn a_broken_long_lived_connection_is_told() {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    let mut config = config(bound.api[0], Kind::Tcp);
    config.duration = None;
    config.established = 5;
    config.established_targets = vec![bound.echo[0]];
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        control.reset(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let report = run(config, stop, &mut Heard::default()).await.unwrap();
    assert_eq!((report.established.opened, report.established.broken), (5, 5), "{report}");
    assert!(report.established.failures.iter().all(|failure| failure.reason == Reason::Reset));
    assert_eq!(report.failed, 0, "{report}");
}
