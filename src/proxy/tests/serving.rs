use std::collections::BTreeSet;

use futures_util::FutureExt;
use tokio::net::TcpStream;

use super::harness::*;
use crate::model::proxy_routes::ProxyRoute;
use crate::proxy::*;

/// A virtual IP on loopback with a port that is free.
async fn vip(ip: &str) -> Vip {
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

fn to(vips: &[Vip], backend: Backend) -> Arc<ProxyRoutes> {
    let route = ProxyRoute { backends: vec![backend], ..ProxyRoute::default() };
    Arc::new(ProxyRoutes {
        vips: vips.iter().map(|vip| (*vip, route.clone())).collect(),
        ..ProxyRoutes::default()
    })
}

async fn connect(vip: Vip) -> TcpStream {
    within(TcpStream::connect(vip)).await.unwrap()
}

#[tokio::test]
async fn withdrawn_vip_keeps_its_connections_and_is_emptied_by_the_last() {
    let mut rig = Rig::new().await;
    let vip = vip("127.77.0.1").await;
    let vips = BTreeSet::from([vip]);
    rig.forwarder.route(to(&[vip], echo().await));
    rig.forwarder.serve(&vips).await.unwrap();
    let mut client = connect(vip).await;
    assert!(echoes(&mut client).await);
    assert_eq!((rig.forwarder.vip_connections(), rig.stats.open(Origin::Vip)), (1, 1));

    rig.forwarder.withdraw().await;
    assert_eq!(rig.forwarder.vip_connections(), 2);
    let mut late = connect(vip).await;
    assert!(echoes(&mut late).await, "whose handshake was under way is served");
    drop(late);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(echoes(&mut connect(vip).await).await, "whom conntrack still leads here is served");
    assert!(echoes(&mut client).await && rig.forwarder.emptied().now_or_never().is_none());
    drop(client);
    within(rig.forwarder.emptied()).await;
    assert_eq!(rig.forwarder.vip_connections(), 0);
    assert!(TcpStream::connect(vip).await.is_err(), "it is closed");

    rig.forwarder.serve(&vips).await.unwrap();
    assert!(echoes(&mut connect(vip).await).await);
}

#[tokio::test]
async fn serve_cancels_a_withdrawal() {
    let mut rig = Rig::new().await;
    let vip = vip("127.77.0.2").await;
    let vips = BTreeSet::from([vip]);
    rig.forwarder.route(to(&[vip], echo().await));
    rig.forwarder.serve(&vips).await.unwrap();
    rig.forwarder.withdraw().await;
    rig.forwarder.withdraw().await;
    assert_eq!(rig.forwarder.vip_connections(), 1);
    rig.forwarder.serve(&vips).await.unwrap();
    assert_eq!(rig.forwarder.vip_connections(), 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(echoes(&mut connect(vip).await).await);
}

#[tokio::test]
async fn serve_is_all_or_nothing() {
    let mut rig = Rig::new().await;
    let (first, kept) = (vip("127.77.0.3").await, vip("127.77.0.5").await);
    // A connection of another test may have the port on another address.
    let (second, everywhere) = loop {
        let second = vip("127.77.0.4").await;
        if let Ok(everywhere) = std::net::TcpListener::bind(("0.0.0.0", second.port())) {
            break (second, everywhere);
        }
    };
    rig.forwarder.route(to(&[first, second, kept], echo().await));
    rig.forwarder.serve(&BTreeSet::from([kept])).await.unwrap();
    let error = rig.forwarder.serve(&BTreeSet::from([first, second])).await.unwrap_err();
    assert!(matches!(error, ForwarderError::InUse(address) if address == second), "{error}");
    assert!(TcpStream::connect(first).await.is_err());
    assert!(echoes(&mut connect(kept).await).await);
    drop(everywhere);
    rig.forwarder.serve(&BTreeSet::from([first, second])).await.unwrap();
    assert!(echoes(&mut connect(first).await).await && echoes(&mut connect(second).await).await);
    within(rig.forwarder.emptied()).await;
    assert!(TcpStream::connect(kept).await.is_err(), "the others are withdrawn");
}

#[tokio::test]
async fn connections_wait_until_there_is_a_route() {
    let mut rig = Rig::new().await;
    let vip = vip("127.77.0.6").await;
    rig.forwarder.serve(&BTreeSet::from([vip])).await.unwrap();
    let mut client = connect(vip).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.stats.accepted(Origin::Vip), 0);
    rig.forwarder.route(to(&[vip], echo().await));
    assert!(echoes(&mut client).await);
    // A virtual IP that is gone keeps what it has.
    rig.forwarder.route(Arc::default());
    assert!(echoes(&mut client).await);
}

#[tokio::test]
async fn connections_are_counted_by_backend() {
    let mut rig = Rig::new().await;
    let vip = vip("127.77.0.8").await;
    let (first, second) = (echo().await, echo().await);
    let mut routes = ProxyRoutes::clone(&to(&[vip], first));
    let (backends, others) = (vec![refusing().await], vec![second]);
    routes.local = ProxyRoute { backends, others, ..ProxyRoute::default() };
    rig.forwarder.route(Arc::new(routes));
    rig.forwarder.serve(&BTreeSet::from([vip])).await.unwrap();
    let counts = |total, open| ForwardedConnections { total, open };
    let (mut through_vip, mut through_endpoint) = (connect(vip).await, rig.connect().await);
    assert!(echoes(&mut through_vip).await && echoes(&mut through_endpoint).await);
    assert_eq!(rig.stats.forwarded(), [(first, counts(1, 1)), (second, counts(1, 1))].into());
    drop(through_vip);
    rig.until(|stats| stats.forwarded()[&first] == counts(1, 0)).await;

    // The first one is no longer published.
    rig.forwarder.route(to(&[vip], second));
    assert!(echoes(&mut connect(vip).await).await && echoes(&mut through_endpoint).await);
    rig.until(|stats| stats.forwarded() == [(second, counts(2, 1))].into()).await;
    let accepted: u64 = Origin::ALL.into_iter().map(|origin| rig.stats.accepted(origin)).sum();
    assert_eq!(accepted, 3);
}

#[tokio::test]
async fn no_connection_is_refused_when_listeners_are_handed_over() {
    let mut old = Rig::new().await;
    let vip = vip("127.77.0.7").await;
    old.forwarder.serve(&BTreeSet::from([vip])).await.unwrap();
    // Neither has a route, so both stay in a backlog.
    let (mut through_vip, mut through_endpoint) = (connect(vip).await, old.connect().await);
    let inherited = old.forwarder.listeners().await.unwrap();
    assert_eq!(within(old.forwarder.drain(PATIENCE)).await, 0);

    let options = ForwarderOptions { listen: vec![old.address], ..Default::default() };
    let mut new = Rig::with(options, inherited).await;
    assert_eq!(new.address, old.address);
    let backend = echo().await;
    let mut routes = ProxyRoutes::clone(&to(&[vip], backend));
    routes.local = routes.vips[&vip].clone();
    new.forwarder.route(Arc::new(routes));
    assert!(echoes(&mut through_vip).await && echoes(&mut through_endpoint).await);
    assert!(echoes(&mut connect(vip).await).await && echoes(&mut new.connect().await).await);
    new.forwarder.serve(&BTreeSet::from([vip])).await.unwrap();
    assert!(echoes(&mut connect(vip).await).await);
}

#[tokio::test]
async fn error_names_an_endpoint_that_is_in_use() {
    let (_listener, address) = listener().await;
    let options = ForwarderOptions { listen: vec![address], ..Default::default() };
    let (failed, _failures) = unbounded_channel();
    let error = Forwarder::start(options, Vec::new(), failed, Arc::default()).err().unwrap();
    assert!(matches!(error, ForwarderError::InUse(taken) if taken == address), "{error}");
}
