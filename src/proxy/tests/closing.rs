use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::*;
use crate::model::proxy_routes::ProxyRoute;
use crate::proxy::*;

fn routes(backends: &[Backend], others: &[Backend], ending: &[Backend]) -> Arc<ProxyRoutes> {
    let local = ProxyRoute { backends: backends.to_vec(), others: others.to_vec(), ..ProxyRoute::default() };
    Arc::new(ProxyRoutes {
        local,
        ending: BTreeSet::from_iter(ending.iter().copied()),
        ..ProxyRoutes::default()
    })
}

#[tokio::test]
async fn connections_to_a_backend_that_went_down_are_reset_on_both_sides() {
    let mut rig = Rig::new().await;
    let ((dying, gone), healthy) = (listener().await, echo().await);
    rig.route_to(&[healthy], &[]);
    let mut staying = rig.connect().await;
    assert!(echoes(&mut staying).await);
    rig.route_to(&[gone], &[]);
    let mut client = rig.connect().await;
    let (mut server, _) = within(dying.accept()).await.unwrap();
    // What comes through shows that the dial is over.
    client.write_all(b"!").await.unwrap();
    within(server.read_u8()).await.unwrap();
    rig.forwarder.route(routes(&[healthy], &[gone], &[gone]));
    assert!(is_reset(&mut client).await && is_reset(&mut server).await);
    assert_eq!(rig.stats.resets(ResetCause::BackendDown), 1);
    assert!(echoes(&mut staying).await);
}

#[tokio::test]
async fn backend_that_stays_down_is_dialed_as_last_resort() {
    let mut rig = Rig::new().await;
    let (down, refusing) = (echo().await, refusing().await);
    rig.forwarder.route(routes(&[refusing], &[down], &[down]));
    let mut client = rig.connect().await;
    assert!(echoes(&mut client).await);
    rig.forwarder.route(routes(&[], &[down], &[down]));
    assert!(echoes(&mut client).await);
    rig.forwarder.route(routes(&[down], &[], &[]));
    assert!(echoes(&mut client).await);
    rig.forwarder.route(routes(&[], &[down], &[down]));
    assert!(is_reset(&mut client).await);
}

#[tokio::test]
async fn dial_to_a_backend_that_went_down_is_canceled() {
    let mut rig = Rig::new().await;
    let (unanswering, _sockets) = unanswering().await;
    rig.route_to(&[unanswering], &[]);
    let mut client = rig.connect().await;
    rig.until(|stats| stats.open(Origin::Listen) == 1).await;
    rig.forwarder.route(routes(&[], &[], &[unanswering]));
    assert!(is_reset(&mut client).await);
    assert_eq!(rig.stats.dial_failures(DialFailure::BackendDown), 1);
    assert_eq!(rig.stats.dial_failures(DialFailure::TimedOut), 0);
    assert!(rig.failures.try_recv().is_err());
}

#[tokio::test]
async fn drain_waits_for_connections_and_then_resets_them() {
    let mut rig = Rig::new().await;
    rig.route_to(&[echo().await], &[]);
    let (mut ending, mut lasting) = (rig.connect().await, rig.connect().await);
    assert!(echoes(&mut ending).await && echoes(&mut lasting).await);
    let draining = tokio::spawn(rig.forwarder.drain(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err(), "nothing is accepted any more");
    assert!(echoes(&mut ending).await && echoes(&mut lasting).await);
    drop(ending);
    assert_eq!(within(draining).await.unwrap(), 1);
    assert!(is_reset(&mut lasting).await);
}

#[tokio::test]
async fn drain_ends_with_the_last_connection() {
    let mut rig = Rig::new().await;
    rig.route_to(&[echo().await], &[]);
    let mut client = rig.connect().await;
    assert!(echoes(&mut client).await);
    let draining = tokio::spawn(rig.forwarder.drain(PATIENCE * 10));
    drop(client);
    assert_eq!(within(draining).await.unwrap(), 0);
    assert_eq!(within(Rig::new().await.forwarder.drain(PATIENCE * 10)).await, 0);
}

#[tokio::test]
async fn dropped_handle_ends_the_thread_and_resets_connections() {
    let mut rig = Rig::new().await;
    rig.route_to(&[echo().await], &[]);
    let mut client = rig.connect().await;
    assert!(echoes(&mut client).await);
    drop(rig.forwarder);
    assert!(is_reset(&mut client).await);
    // The sender of the reports lives on the thread.
    assert_eq!(within(rig.failures.recv()).await, None);
    assert_eq!(rig.stats.open(Origin::Listen), 0);
}
