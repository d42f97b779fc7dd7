//! The API is away for hours: on a clock that goes on by itself while nobody has anything to do.

use std::time::Duration;

use tokio::time::{Instant, pause, resume, sleep};

use super::fake::Fake;
use super::log::Log;
use super::reconnect::several;
use crate::kube::{State, TLS_NAME};

const HOURS: u32 = 10;
/// The longest pause between two sessions, and what a refused dial may take besides.
const PAUSE: Duration = Duration::from_secs(15 + 1);

#[tokio::test]
async fn ten_hours_without_an_api_are_a_few_tries_a_minute_and_a_few_lines() {
    let log = Log::default();
    let _logged = tracing::subscriber::set_default(log.subscriber());
    let (pki, cluster, mut fakes, mut running) = several(2).await;
    let address = fakes[0].address;
    for fake in fakes.drain(..) {
        fake.kill().await;
    }
    running.error(&["no apiserver can be reached", "connection refused"]).await;
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
    assert_eq!((connection.state, connection.address), (State::Degraded, None));
    assert_eq!(running.snapshots.borrow().as_ref().map(|p| &p.snapshot), view.as_ref().map(|p| &p.snapshot));

    // It is back: found within one pause.
    let tls = pki.server(TLS_NAME, false, &["h2", "http/1.1"]);
    let back = Fake::start(1, address.port(), tls, cluster.clone()).await;
    let returned = Instant::now();
    while back.connections() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let took = returned.elapsed();
    assert!(took <= PAUSE, "found after {took:?}");
    // What is under way is done in real time.
    resume();
    running.connection(|connection| connection.state == State::Synced).await;
    assert_eq!(running.connection.borrow().address, Some(address));

    let text = log.text();
    let lines = |words: &str| text.lines().filter(|line| line.contains(words)).collect::<Vec<_>>();
    // One for each way in which it failed: the connection that broke, and then all servers, from either one on.
    let failed = lines("cannot read the Kubernetes API");
    assert!((1..=6).contains(&failed.len()), "{failed:#?}");
    let again = lines("the Kubernetes API is read again");
    let number = |name: &str| -> u64 {
        let word = again[0].split(' ').find_map(|word| word.strip_prefix(name));
        word.unwrap_or_else(|| panic!("no {name} in {again:?}")).parse().unwrap()
    };
    assert_eq!(again.len(), 1, "{again:#?}");
    assert!(number("after_seconds=") >= u64::from(HOURS) * 3600, "{again:?}");
    assert!(number("failures=") >= tries && number("failures=") < tries + 20, "{tries}: {again:?}");
    println!("found after {took:?} and {tries} tries\n{text}");
}
