//! Servers that do not know the daemon, or no longer, or have it show credentials.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::{Probing, config};
use super::pki::Pki;
use super::server::Server;
use crate::model::health::{Answered, Caller, FailReason, State};

fn answered(probing: &Probing, server: &Server) -> Option<Answered> {
    probing.view().backends[&server.address].answered
}

/// Waits until a server took the daemon for such a caller.
async fn until_taken_for(probing: &mut Probing, server: &Server, caller: Caller) {
    let at = server.address;
    probing.until(|view| view.backends[&at].answered.is_some_and(|found| found.caller == caller)).await;
}

#[tokio::test]
async fn without_credentials_a_connection_for_pings_shows_a_killed_process() {
    let pki = Pki::new("cluster");
    for protocol in ["h2", "http/1.1"] {
        let victim = Server::start(pki.server(&[protocol])).await;
        let witness = Server::start(pki.server(&[protocol])).await;
        // No probe is due by itself within this test.
        let rare = Duration::from_secs(70);
        let mut probing = Probing::start(
            crate::health::ProbeConfig { interval: rare, readyz_interval: rare, ..config() },
            pki.stranger(),
        );
        let backends = [victim.address, witness.address];
        probing.publish(&backends);
        probing.until(|view| backends.iter().all(|backend| view.state(*backend) == State::Healthy)).await;
        assert_eq!(
            answered(&probing, &victim),
            Some(Answered { caller: Caller::Anonymous, readiness_known: true })
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (connections, questions) = (victim.connections(), victim.questions());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((victim.connections(), victim.questions()), (connections, questions), "{protocol}");
        assert!(probing.counted.of("alive") >= 4, "pings go over it");
        let killed = std::time::Instant::now();
        let address = victim.kill().await;
        let view = probing.until_state(address, State::Suspect).await;
        let took = view.backends[&address].since - killed;
        println!("{protocol}: Down {took:?} after the kill");
        assert!(took < Duration::from_secs(5), "about 55 ms: {took:?}");
    }
}

#[tokio::test]
async fn credentials_that_are_refused_leave_readiness_known_and_come_back() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.bearer("expired"));
    probing.publish(&[server.address]);
    probing.until_state(server.address, State::Healthy).await;
    until_taken_for(&mut probing, &server, Caller::Refused).await;
    assert_eq!(
        answered(&probing, &server),
        Some(Answered { caller: Caller::Refused, readiness_known: true })
    );
    server.say(500);
    probing.until_state(server.address, State::Draining).await;
    server.say(200);
    probing.until_state(server.address, State::Healthy).await;
    probing.identity.send_replace(pki.client());
    until_taken_for(&mut probing, &server, Caller::Authenticated).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connections = server.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.connections(), connections, "one connection is kept and asked over");
}

#[tokio::test]
async fn where_strangers_are_shunned_credentials_tell_readiness() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    server.shared.shuns_strangers.store(true, Ordering::Relaxed);
    server.say(500);
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, State::Draining).await;
    assert_eq!(
        answered(&probing, &server),
        Some(Answered { caller: Caller::Authenticated, readiness_known: true })
    );
    let mut strangers = Probing::start(config(), pki.bearer("expired"));
    strangers.publish(&[server.address]);
    strangers.until_state(server.address, State::Healthy).await;
    assert_eq!(
        answered(&strangers, &server),
        Some(Answered { caller: Caller::Refused, readiness_known: false })
    );
}

#[tokio::test]
async fn a_token_that_ends_is_no_failure_and_the_next_one_is_used() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    until_taken_for(&mut probing, &server, Caller::Authenticated).await;
    let healthy = |view: &crate::model::health::HealthView| {
        let health = view.backends[&server.address];
        assert!(matches!(health.state, State::Healthy | State::Unknown), "{health:?}");
        assert_eq!(health.failing, None::<FailReason>, "{health:?}");
    };
    *server.shared.token.lock().unwrap() = Some("next".to_owned());
    probing.during(Duration::from_secs(3), healthy).await;
    assert_eq!(answered(&probing, &server).map(|found| found.caller), Some(Caller::Refused));
    probing.identity.send_replace(pki.bearer("next"));
    until_taken_for(&mut probing, &server, Caller::Authenticated).await;
    probing.during(Duration::from_secs(1), healthy).await;
}

/// The header goes with each request: another token needs no other connection.
#[tokio::test]
async fn a_renewed_token_goes_over_the_connection_that_is_open() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    until_taken_for(&mut probing, &server, Caller::Authenticated).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connections = server.connections();
    probing.identity.send_replace(pki.bearer("next"));
    *server.shared.token.lock().unwrap() = Some("next".to_owned());
    let questions = server.questions();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(server.questions() > questions);
    assert_eq!(answered(&probing, &server).map(|found| found.caller), Some(Caller::Authenticated));
    assert!(server.connections() <= connections + 1, "a question between the two may have been refused");
}
