use std::time::Instant;

use super::harness::*;
use crate::proxy::*;

#[tokio::test]
async fn who_refuses_is_passed_over_and_reported() {
    let mut rig = Rig::new().await;
    let refusing = nobody().await;
    rig.lead_to(&[refusing], &[echo().await]);
    assert!(echoes(&mut rig.connect().await).await);
    assert_eq!(within(rig.failures.recv()).await, Some(refusing));
    assert_eq!(rig.stats.dial_failures(DialFailure::Refused), 1);
    assert_eq!(rig.stats.hedged(), 0);
}

#[tokio::test]
async fn who_does_not_answer_is_overtaken() {
    let mut rig = Rig::new().await;
    let (silent, _sockets) = silent().await;
    rig.lead_to(&[silent], &[echo().await]);
    let begun = Instant::now();
    assert!(echoes(&mut rig.connect().await).await);
    let took = begun.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    assert_eq!(rig.stats.hedged(), 1);
    assert!(rig.failures.try_recv().is_err(), "it may still have come");
}

#[tokio::test]
async fn a_client_is_reset_when_nobody_can_be_reached() {
    let mut rig = Rig::new().await;
    let (one, two) = (nobody().await, nobody().await);
    rig.lead_to(&[one, two], &[]);
    assert!(rig.resets().await);
    assert_eq!(rig.stats.resets(ResetCause::NoBackend), 1);
    rig.lead_to(&[], &[]);
    assert!(rig.resets().await);
    rig.until(|stats| stats.resets(ResetCause::NoBackend) == 2).await;
}

#[tokio::test]
async fn the_silent_are_given_up_and_reported() {
    let mut rig = Rig::new().await;
    let (silent, _sockets) = silent().await;
    rig.lead_to(&[silent], &[]);
    assert!(rig.resets().await);
    assert_eq!(within(rig.failures.recv()).await, Some(silent));
    // The third dial is under way when the client has waited for long enough.
    assert_eq!(rig.stats.dial_failures(DialFailure::TimedOut), 2);
}

#[tokio::test]
async fn a_client_that_leaves_is_dialled_for_no_longer() {
    let mut rig = Rig::new().await;
    let (silent, _sockets) = silent().await;
    rig.lead_to(&[silent], &[]);
    let client = rig.connect().await;
    rig.until(|stats| stats.open(Origin::Listen) == 1).await;
    client.set_zero_linger().unwrap();
    drop(client);
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
    assert_eq!(rig.stats.resets(ResetCause::NoBackend), 0);
    assert_eq!(rig.stats.dial_failures(DialFailure::TimedOut), 0);
}

#[tokio::test]
async fn what_a_client_said_meanwhile_and_its_end_are_not_lost() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut rig = Rig::new().await;
    let (silent, _sockets) = silent().await;
    rig.lead_to(&[silent], &[echo().await]);
    let mut client = rig.connect().await;
    client.write_all(b"early").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"early");
}
