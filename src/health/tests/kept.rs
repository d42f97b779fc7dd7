//! The kept-open connection: one for each backend, and its end is a sign.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Probing, config};
use super::pki::Pki;
use super::server::Server;
use crate::model::health::State;

#[tokio::test]
async fn one_connection_serves_all_questions() {
    let pki = Pki::new("cluster");
    let h2 = Server::start(pki.server(&["h2", "http/1.1"])).await;
    let h1 = Server::start(pki.server(&["http/1.1"])).await;
    let mut probing = Probing::start(config(), pki.client());
    let backends = [h2.address, h1.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == State::Healthy)).await;
    // A burst may have begun a second one before the first was answered.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = h2.connections() + h1.connections();
    probing.publish(&backends);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let more = h2.connections() + h1.connections() - before;
    assert!(more <= 2, "{more} further connections; one for each interval would be 26");
    assert!(probing.counted.of("alive") >= 4, "pings each 300 ms for 4 s");
    assert!((2..=12).contains(&h2.questions()) && (2..=12).contains(&h1.questions()), "readyz each second");
    let health = probing.view().backends[&h2.address];
    assert!(health.answering && health.round_trip.is_some_and(|time| time < Duration::from_secs(1)));
}

/// Two servers that are asked and Up.
async fn two_up(pki: &Pki, protocol: &str) -> (Server, Server, Probing) {
    let one = Server::start(pki.server(&[protocol])).await;
    let other = Server::start(pki.server(&[protocol])).await;
    let mut probing = Probing::start(config(), pki.client());
    let backends = [one.address, other.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == State::Healthy)).await;
    (one, other, probing)
}

#[tokio::test]
async fn a_killed_process_is_down_at_once() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let (victim, witness, mut probing) = two_up(&pki, protocol).await;
        let killed = std::time::Instant::now();
        let address = victim.kill().await;
        let view = probing.until_state(address, State::Suspect).await;
        let health = view.backends[&address];
        println!("{protocol}: Suspect {:?} after the kill, by the decision's time", health.since - killed);
        assert!(health.since - killed < Duration::from_secs(2), "about 55 ms: {:?}", health.since - killed);
        assert!(!health.ending && health.ask.is_none_or(|ask| ask >= killed), "its host told its clients");
        assert!(health.noticed <= health.since && view.noticed >= health.noticed);
        assert_eq!(view.state(witness.address), State::Healthy);
        let _again = Server::start_at(address, pki.server(&[protocol])).await;
        let view = probing.until_state(address, State::Healthy).await;
        assert!(view.backends[&address].answering);
    }
}

#[tokio::test]
async fn a_server_that_stops_reading_is_down() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let (victim, witness, mut probing) = two_up(&pki, protocol).await;
        let stopped = std::time::Instant::now();
        victim.fall_silent();
        let view = probing.until_state(victim.address, State::Suspect).await;
        let took = view.backends[&victim.address].since - stopped;
        println!("{protocol}: Suspect {took:?} after it stopped, with a ping each 300 ms");
        assert!(took < Duration::from_secs(10), "about 1 s: {took:?}");
        assert_eq!(view.state(witness.address), State::Healthy);
    }
}

/// The first connections end with GOAWAY, as an apiserver's do that is stopped, or that sheds connections.
#[tokio::test]
async fn goaway_is_a_sign_and_no_failure() {
    let pki = Pki::new("cluster");
    let server = Server::raw_tls(pki.server(&["h2"]), |mut stream| async move {
        let _ = stream.read(&mut vec![0; 1024]).await;
        let answer = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88";
        let _ = stream.write_all(answer).await;
        let _ = stream.flush().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ =
            stream.write_all(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00").await;
        let _ = stream.flush().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, State::Healthy).await;
    probing.until(|view| !view.backends[&server.address].answering).await;
    probing.until(|view| view.backends[&server.address].answering).await;
    let health = probing.view().backends[&server.address];
    assert_eq!((health.state, health.failing), (State::Healthy, None));
}
