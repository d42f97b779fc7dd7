//! Servers that die or fall silent: the next endpoint takes over.

use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::fake::Fake;
use super::running::{Running, eventually, start_spread};
use crate::kube::{SPREAD_INTERVAL, State, TLS_NAME};
use crate::transport::pki::Pki;

/// Servers at 127.0.0.1 to 127.0.0.`count` on one port, and `run`, which was given the first as bootstrap server.
pub(super) async fn several(count: u8) -> (Pki, Cluster, Vec<Fake>, Running) {
    several_spread(count, SPREAD_INTERVAL).await
}

/// The same, and one is read for about so long.
async fn several_spread(count: u8, interval: Duration) -> (Pki, Cluster, Vec<Fake>, Running) {
    let pki = Pki::new("cluster");
    let cluster = Cluster::new(&[]);
    let mut fakes: Vec<Fake> = Vec::new();
    for last in 1..=count {
        let port = fakes.first().map_or(0, |first| first.address.port());
        let tls = pki.server(TLS_NAME, false, &["h2", "http/1.1"]);
        fakes.push(Fake::start(last, port, tls, cluster.clone()).await);
    }
    let addresses: Vec<_> = fakes.iter().map(|fake| fake.address).collect();
    cluster.set_backends(&addresses);
    let mut running = start_spread(fakes[0].address, &pki.ca_pem(), interval).await;
    running.backends(&addresses).await;
    running.synced(&cluster).await;
    (pki, cluster, fakes, running)
}

#[tokio::test]
async fn a_killed_server_is_replaced_by_the_next_and_the_watch_resumes() {
    let (_, cluster, mut fakes, mut running) = several(3).await;
    let first = fakes.remove(0);
    let address = first.address;
    first.kill().await;
    let connection = running
        .connection(|c| c.state == State::Synced && c.address != Some(address) && c.reconnects > 0)
        .await;
    fakes.sort_by_key(|fake| connection.address != Some(fake.address));
    assert_eq!(connection.address, Some(fakes[0].address));
    assert_eq!((connection.relists, connection.last_error), (0, None));
    let asked = fakes[0].asked();
    assert!(asked.iter().all(|asked| asked.contains("watch=true")), "{asked:?}");
    let mut left: Vec<_> = fakes.iter().map(|fake| fake.address).collect();
    left.sort_unstable();
    cluster.set_backends(&left);
    running.backends(&left).await;
    let second = fakes.remove(0);
    second.kill().await;
    running.connection(|c| c.state == State::Synced && c.address == Some(fakes[0].address)).await;
}

#[tokio::test]
async fn now_and_then_another_server_is_read_and_nothing_is_listed_again() {
    let (_, _cluster, fakes, mut running) = several_spread(3, Duration::from_millis(400)).await;
    for fake in &fakes {
        running.connection(|c| c.state == State::Synced && c.address == Some(fake.address)).await;
    }
    let connection = running.connection.borrow().clone();
    assert!(connection.reconnects >= 2);
    assert_eq!((connection.state, connection.relists, connection.last_error), (State::Synced, 0, None));
    let lists = fakes.iter().flat_map(Fake::asked).filter(|asked| !asked.contains("watch=true")).count();
    assert_eq!(lists, 2, "one of each collection");
}

#[tokio::test]
async fn a_silent_server_is_noticed_and_replaced() {
    let (_, cluster, fakes, mut running) = several(2).await;
    let begin = Instant::now();
    fakes[0].fall_silent();
    running.connection(|c| c.state == State::Synced && c.address == Some(fakes[1].address)).await;
    // Usual: up to 2 s until the next PING and 5 s without its answer.
    assert!(begin.elapsed() < Duration::from_secs(50), "{:?}", begin.elapsed());
    println!("a silent server was replaced after {:?}", begin.elapsed());
    let left = [fakes[1].address];
    cluster.set_backends(&left);
    running.backends(&left).await;
}

#[tokio::test]
async fn all_servers_away_and_back() {
    let (_, _, mut fakes, mut running) = several(2).await;
    let pki = Pki::new("other");
    let port = fakes[0].address.port();
    for fake in fakes.drain(..) {
        fake.kill().await;
    }
    let error = running.error(&["no apiserver can be reached", "connection refused"]).await;
    for last in [1, 2] {
        assert!(error.contains(&format!("127.0.0.{last}:{port}: connection refused")), "{error}");
    }
    let connection = running.connection.borrow().clone();
    assert_eq!((connection.state, connection.address), (State::Degraded, None));
    assert!(running.snapshots.borrow().is_some(), "the view stands");
    // Something else listens there now: it has another CA.
    let cluster = Cluster::new(&[]);
    let _foreign = Fake::start(2, port, pki.server(TLS_NAME, false, &["h2"]), cluster).await;
    running.error(&["127.0.0.2", "not signed by the cluster CA"]).await;
}

#[tokio::test]
async fn nobody_listens_ends_the_run() {
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
async fn however_many_servers_hang_one_that_answers_is_found() {
    let (_, _cluster, mut fakes, mut running) = several(5).await;
    let last = fakes.pop().unwrap();
    // They accept, as the kernel does that for a stopped process, and each costs the dial all the time it may take.
    for fake in &fakes {
        fake.fall_silent();
    }
    running.connection(|c| c.state == State::Synced && c.address == Some(last.address)).await;
}
