//! Every kind of client against a healthy server and one that resets its connections, on loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::config::{Config, Fresh};
use super::timeline::{End, Kind, Reason, Timeline};
use crate::sim::fixture::{Fixture, NAME, TOKEN};
use crate::sim::load::config::TlsKind;

const KEPT: [Kind; 6] =
    [Kind::Idle, Kind::Watch, Kind::HalfClosed, Kind::Upload, Kind::Download, Kind::Pipelined];

/// Runs clients of every kind for half a second, with `fault` in the middle.
async fn run(fault: impl AsyncFnOnce(&crate::sim::control::Control)) -> (Timeline, usize) {
    let fixture = Fixture::new();
    let (bound, control) = fixture.apiserver("a").await;
    control.adjust(|faults| faults.half_close = true).await.unwrap();
    let config = Config {
        targets: bound.api.clone(),
        tls: TlsKind {
            ca: fixture.path("ca.pem"),
            server_name: NAME.to_owned(),
            token: Some(TOKEN.to_owned()),
        },
        fresh_every: Some(Duration::from_millis(20)),
        fresh: Fresh::Tls,
        timeout: Duration::from_secs(2),
        kept: KEPT.map(|kind| (kind, 2)).to_vec(),
    };
    let (told, started) = oneshot::channel();
    let ended = Arc::new(Mutex::new(0));
    let counted = ended.clone();
    let stop = async {
        started.await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
        fault(&control).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    let started = |kept: &[_]| {
        assert_eq!(kept.len(), 12);
        told.send(()).unwrap();
    };
    let timeline = super::run(config, stop, started, move |_| *counted.lock().unwrap() += 1).await.unwrap();
    let ended = *ended.lock().unwrap();
    (timeline, ended)
}

#[tokio::test]
async fn a_healthy_server_is_reported_as_one() {
    let (timeline, ended) = run(async |_| {}).await;
    assert_eq!(ended, 0);
    assert!(timeline.fresh().count() > 5);
    assert!(timeline.fresh().all(|c| c.end == Some(End::Done)), "{timeline:?}");
    for kind in KEPT {
        let of: Vec<_> = timeline.kept().filter(|c| c.kind == kind).collect();
        assert_eq!(of.len(), 2);
        for connection in of {
            assert!(connection.end.is_none() && connection.local.is_some(), "{connection:?}");
            assert!(connection.first_byte_ms.is_some(), "{connection:?}");
        }
    }
}

#[tokio::test]
async fn resets_are_seen_by_every_kind() {
    let (timeline, ended) = run(async |control| control.reset(false).await.unwrap()).await;
    assert_eq!(ended, 12);
    for connection in timeline.kept() {
        assert_eq!(connection.end, Some(End::Failed(Reason::Reset)), "{connection:?}");
        assert!(connection.ended_ms >= Some(250), "{connection:?}");
    }
}

#[tokio::test]
async fn silence_ends_nothing() {
    let (timeline, ended) = run(async |control| control.hang(true, false).await.unwrap()).await;
    assert_eq!(ended, 0);
    assert!(timeline.kept().all(|c| c.end.is_none()));
    let late: Vec<_> = timeline.fresh().filter(|c| c.failed()).collect();
    assert!(!late.is_empty());
    assert!(late.iter().all(|c| c.end == Some(End::Failed(Reason::Timeout))));
}
