use std::time::Instant;

use super::harness::*;
use crate::proxy::*;

#[tokio::test]
async fn refusing_backend_is_skipped_and_reported() {
    let mut rig = Rig::new().await;
    let refusing = refusing().await;
    rig.route_to(&[refusing], &[echo().await]);
    assert!(echoes(&mut rig.connect().await).await);
    assert_eq!(within(rig.failures.recv()).await, Some(refusing));
    assert_eq!(rig.stats.dial_failures(DialFailure::Refused), 1);
    assert_eq!(rig.stats.hedged(), 0);
}

#[tokio::test]
async fn backend_without_answer_is_hedged() {
    let mut rig = Rig::new().await;
    let (unanswering, _sockets) = unanswering().await;
    rig.route_to(&[unanswering], &[echo().await]);
    let begun = Instant::now();
    assert!(echoes(&mut rig.connect().await).await);
    let took = begun.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    assert_eq!(rig.stats.hedged(), 1);
    assert!(rig.failures.try_recv().is_err(), "it may still have come");
}

#[tokio::test]
async fn client_is_reset_when_no_backend_can_be_reached() {
    let mut rig = Rig::new().await;
    let (one, two) = (refusing().await, refusing().await);
    rig.route_to(&[one, two], &[]);
    assert!(rig.resets().await);
    assert_eq!(rig.stats.resets(ResetCause::NoBackend), 1);
    rig.route_to(&[], &[]);
    assert!(rig.resets().await);
    rig.until(|stats| stats.resets(ResetCause::NoBackend) == 2).await;
}

#[tokio::test]
async fn backends_without_answer_time_out_and_are_reported() {
    let mut rig = Rig::new().await;
    let (unanswering, _sockets) = unanswering().await;
    rig.route_to(&[unanswering], &[]);
    assert!(rig.resets().await);
    assert_eq!(within(rig.failures.recv()).await, Some(unanswering));
    // The third dial is under way when the client has waited for long enough.
    assert_eq!(rig.stats.dial_failures(DialFailure::TimedOut), 2);
}

#[tokio::test]
async fn dials_stop_when_the_client_resets() {
    let mut rig = Rig::new().await;
    let (unanswering, _sockets) = unanswering().await;
    rig.route_to(&[unanswering], &[]);
    let client = rig.connect().await;
    rig.until(|stats| stats.open(Origin::Listen) == 1).await;
    client.set_zero_linger().unwrap();
    drop(client);
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
    assert_eq!(rig.stats.resets(ResetCause::NoBackend), 0);
    assert_eq!(rig.stats.dial_failures(DialFailure::TimedOut), 0);
}

#[tokio::test]
async fn early_bytes_and_fin_of_a_client_are_forwarded() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut rig = Rig::new().await;
    let (unanswering, _sockets) = unanswering().await;
    rig.route_to(&[unanswering], &[echo().await]);
    let mut client = rig.connect().await;
    client.write_all(b"early").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"early");
}
