//! Servers that die, fall silent or are away for hours: the next endpoint takes over.

use std::time::{Duration, Instant};

use tokio::time::{pause, resume, sleep};

use super::cluster::Cluster;
use super::fake::FakeApiserver;
use super::log::Log;
use super::running::{Running, eventually, start_spread};
use crate::kube::{ConnectionState, SPREAD_INTERVAL};
use crate::transport::TLS_NAME;
use crate::transport::pki::Pki;

/// Servers at 127.0.0.1 to 127.0.0.`count` on one port, and `run`, which was given the first as bootstrap server.
async fn several(count: u8) -> (Pki, Cluster, Vec<FakeApiserver>, Running) {
    several_spread(count, SPREAD_INTERVAL).await
}

/// The same, and one is read for about so long.
async fn several_spread(count: u8, interval: Duration) -> (Pki, Cluster, Vec<FakeApiserver>, Running) {
    let pki = Pki::new("cluster");
    let cluster = Cluster::new(&[]);
    let mut servers: Vec<FakeApiserver> = Vec::new();
    for last in 1..=count {
        let port = servers.first().map_or(0, |first| first.address.port());
        let tls = pki.server(TLS_NAME, false, &["h2", "http/1.1"]);
        servers.push(FakeApiserver::start(last, port, tls, cluster.clone()).await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    cluster.set_backends(&addresses);
    let mut running = start_spread(servers[0].address, &pki.ca_pem(), interval).await;
    running.backends(&addresses).await;
    running.synced(&cluster).await;
    (pki, cluster, servers, running)
}

#[tokio::test]
async fn killed_server_is_replaced_and_the_watch_resumes() {
    let (_, cluster, mut servers, mut running) = several(3).await;
    let first = servers.remove(0);
    let address = first.address;
    first.kill().await;
    let connection = running
        .connection(|c| c.state == ConnectionState::Synced && c.address != Some(address) && c.reconnects > 0)
        .await;
    servers.sort_by_key(|server| connection.address != Some(server.address));
    assert_eq!(connection.address, Some(servers[0].address));
    assert_eq!((connection.relists, connection.last_error), (0, None));
    let requests = servers[0].requests();
    assert!(requests.iter().all(|request| request.contains("watch=true")), "{requests:?}");
    let mut left: Vec<_> = servers.iter().map(|server| server.address).collect();
    left.sort_unstable();
    cluster.set_backends(&left);
    running.backends(&left).await;
    let second = servers.remove(0);
    second.kill().await;
    running.connection(|c| c.state == ConnectionState::Synced && c.address == Some(servers[0].address)).await;
}

#[tokio::test]
async fn rebalancing_moves_to_another_server_without_a_relist() {
    let (_, _cluster, servers, mut running) = several_spread(3, Duration::from_millis(400)).await;
    for server in &servers {
        running.connection(|c| c.state == ConnectionState::Synced && c.address == Some(server.address)).await;
    }
    let connection = running.connection.borrow().clone();
    assert!(connection.reconnects >= 2);
    assert_eq!(
        (connection.state, connection.relists, connection.last_error),
        (ConnectionState::Synced, 0, None)
    );
    let lists = servers
        .iter()
        .flat_map(FakeApiserver::requests)
        .filter(|request| !request.contains("watch=true"))
        .count();
    assert_eq!(lists, 2, "one of each collection");
}

#[tokio::test]
async fn silent_server_is_detected_and_replaced() {
    let (_, cluster, servers, mut running) = several(2).await;
    let begin = Instant::now();
    servers[0].fall_silent();
    running.connection(|c| c.state == ConnectionState::Synced && c.address == Some(servers[1].address)).await;
    // Usual: up to 2 s until the next PING and 5 s without its answer.
    assert!(begin.elapsed() < Duration::from_secs(50), "{:?}", begin.elapsed());
    println!("a silent server was replaced after {:?}", begin.elapsed());
    let left = [servers[1].address];
    cluster.set_backends(&left);
    running.backends(&left).await;
}

#[tokio::test]
async fn all_servers_gone_keeps_the_view_and_names_each_address() {
    let (_, _, mut servers, mut running) = several(2).await;
    let pki = Pki::new("other");
    let port = servers[0].address.port();
    for server in servers.drain(..) {
        server.kill().await;
    }
    let error = running.error(&["no API server can be reached", "connection refused"]).await;
    for last in [1, 2] {
        assert!(error.contains(&format!("127.0.0.{last}:{port}: connection refused")), "{error}");
    }
    let connection = running.connection.borrow().clone();
    assert_eq!((connection.state, connection.address), (ConnectionState::Degraded, None));
    assert!(running.snapshots.borrow().is_some(), "the view stands");
    // Something else listens there now: it has another CA.
    let cluster = Cluster::new(&[]);
    let _foreign = FakeApiserver::start(2, port, pki.server(TLS_NAME, false, &["h2"]), cluster).await;
    running.error(&["127.0.0.2", "not signed by the cluster CA"]).await;
}

#[tokio::test]
async fn run_ends_when_nobody_listens() {
    let (_, cluster, _fakes, running) = several(1).await;
    eventually("watched", || cluster.watchers() == 2).await;
    let Running { .. } = &running;
    let mut connection = running.connection.clone();
    drop(running);
    assert!(
        tokio::time::timeout(Duration::from_secs(20), async { while connection.changed().await.is_ok() {} })
            .await
            .is_ok()
    );
    eventually("no watch", || cluster.watchers() == 0).await;
}

#[tokio::test]
async fn one_responsive_server_is_found_among_hanging_ones() {
    let (_, _cluster, mut servers, mut running) = several(5).await;
    let last = servers.pop().unwrap();
    // They accept, as the kernel does that for a stopped process, and each costs the dial all the time it may take.
    for server in &servers {
        server.fall_silent();
    }
    running.connection(|c| c.state == ConnectionState::Synced && c.address == Some(last.address)).await;
}

/// On a clock that advances by itself while nobody has anything to do.
const HOURS: u32 = 10;
/// The longest pause between two sessions, and what a refused dial may take besides.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 + 1);

#[tokio::test]
async fn ten_hours_without_api_cost_a_few_tries_a_minute_and_a_few_log_lines() {
    let log = Log::default();
    let _logged = tracing::subscriber::set_default(log.subscriber());
    let (pki, cluster, mut servers, mut running) = several(2).await;
    let address = servers[0].address;
    for server in servers.drain(..) {
        server.kill().await;
    }
    running.error(&["no API server can be reached", "connection refused"]).await;
    pause();
    // The first pauses are short.
    sleep(Duration::from_secs(60)).await;
    let view = running.snapshots.borrow().clone();
    let mut tries = running.connection.borrow().reconnects;
    assert!(tries < 20, "{tries} tries in the first minute");
    for minute in 1..HOURS * 60 {
        sleep(Duration::from_secs(60)).await;
        let now = running.connection.borrow().reconnects;
        // Pauses are between 7.5 s and 15 s.
        assert!((3..=9).contains(&(now - tries)), "{} tries in minute {minute}", now - tries);
        tries = now;
    }
    let connection = running.connection.borrow().clone();
    assert_eq!((connection.state, connection.address), (ConnectionState::Degraded, None));
    assert_eq!(running.snapshots.borrow().as_ref().map(|p| &p.snapshot), view.as_ref().map(|p| &p.snapshot));

    // It is back: found within one pause.
    let tls = pki.server(TLS_NAME, false, &["h2", "http/1.1"]);
    let back = FakeApiserver::start(1, address.port(), tls, cluster.clone()).await;
    let returned = tokio::time::Instant::now();
    while back.connections() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let took = returned.elapsed();
    assert!(took <= LONGEST_PAUSE, "found after {took:?}");
    // What is under way is done in real time.
    resume();
    running.connection(|connection| connection.state == ConnectionState::Synced).await;
    assert_eq!(running.connection.borrow().address, Some(address));

    let text = log.text();
    let lines = |words: &str| text.lines().filter(|line| line.contains(words)).collect::<Vec<_>>();
    // One for each way in which it failed: the connection that broke, and then all servers, from either one on.
    let failed = lines("event=api_read_failed");
    assert!((1..=6).contains(&failed.len()), "{failed:#?}");
    let again = lines("event=api_recovered");
    let number = |name: &str| -> u64 {
        let word = again[0].split(' ').find_map(|word| word.strip_prefix(name));
        word.unwrap_or_else(|| panic!("no {name} in {again:?}")).parse().unwrap()
    };
    assert_eq!(again.len(), 1, "{again:#?}");
    assert!(number("outage_seconds=") >= u64::from(HOURS) * 3600, "{again:?}");
    assert!(number("failures=") >= tries && number("failures=") < tries + 20, "{tries}: {again:?}");
    println!("found after {took:?} and {tries} tries\n{text}");
}
