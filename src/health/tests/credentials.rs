//! Whom to trust, and servers that do not know the daemon, or no longer, or have it show credentials.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::{Probing, config};
use super::server::{Pki, Server};
use crate::model::health::{AuthResult, FailReason, HealthState, ReadyzAnswer};

#[tokio::test]
async fn replaced_ca_is_used_for_the_next_handshake() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let renewed = Server::start(new.server(&["h2"])).await;
    let kept = Server::start(old.server(&["h2"])).await;
    let mut probing = Probing::start(config(), old.client());
    probing.publish(&[renewed.address, kept.address]);
    let view = probing.until_state(renewed.address, HealthState::Suspect).await;
    assert_eq!(view.backends[&renewed.address].failure, Some(FailReason::BadCertificate));
    assert_eq!(view.state(kept.address), HealthState::Healthy);
    probing.identity.send_replace(new.client());
    probing.until_state(renewed.address, HealthState::Healthy).await;
    let connections = kept.connections();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(probing.view().state(kept.address), HealthState::Healthy, "its connection stays");
    assert_eq!(kept.connections(), connections);
}

#[tokio::test]
async fn no_backend_is_down_if_no_certificate_verifies() {
    let (pki, stale) = (Pki::new("cluster"), Pki::new("stale"));
    let servers = [Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await];
    let mut probing = Probing::start(config(), stale.client());
    probing.publish(&servers.each_ref().map(|server| server.address));
    let bad = Some(FailReason::BadCertificate);
    probing.until(|view| view.backends.values().all(|health| health.failure == bad)).await;
    probing
        .during(Duration::from_secs(3), |view| {
            assert!(view.backends.values().all(|health| health.state == HealthState::Unknown));
        })
        .await;
    assert!(probing.counted.of("bad_certificate") >= 4);
}

fn answered(probing: &Probing, server: &Server) -> Option<ReadyzAnswer> {
    probing.view().backends[&server.address].readyz
}

/// Waits until a server took the daemon for such a caller.
async fn until_taken_for(probing: &mut Probing, server: &Server, auth: AuthResult) {
    let at = server.address;
    probing.until(|view| view.backends[&at].readyz.is_some_and(|found| found.auth == auth)).await;
}

#[tokio::test]
async fn without_credentials_the_ping_connection_reveals_a_killed_process() {
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
        probing
            .until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy))
            .await;
        assert_eq!(
            answered(&probing, &victim),
            Some(ReadyzAnswer { auth: AuthResult::Anonymous, readiness_known: true })
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (connections, questions) = (victim.connections(), victim.questions());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((victim.connections(), victim.questions()), (connections, questions), "{protocol}");
        assert!(probing.counted.of("alive") >= 4, "pings go over it");
        let killed = std::time::Instant::now();
        let address = victim.kill().await;
        let view = probing.until_state(address, HealthState::Suspect).await;
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
    probing.until_state(server.address, HealthState::Healthy).await;
    until_taken_for(&mut probing, &server, AuthResult::Refused).await;
    assert_eq!(
        answered(&probing, &server),
        Some(ReadyzAnswer { auth: AuthResult::Refused, readiness_known: true })
    );
    server.say(500);
    probing.until_state(server.address, HealthState::Draining).await;
    server.say(200);
    probing.until_state(server.address, HealthState::Healthy).await;
    probing.identity.send_replace(pki.client());
    until_taken_for(&mut probing, &server, AuthResult::Authenticated).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connections = server.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.connections(), connections, "one connection is kept and asked over");
}

#[tokio::test]
async fn credentials_reveal_readiness_where_anonymous_access_is_denied() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    server.shared.shuns_strangers.store(true, Ordering::Relaxed);
    server.say(500);
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, HealthState::Draining).await;
    assert_eq!(
        answered(&probing, &server),
        Some(ReadyzAnswer { auth: AuthResult::Authenticated, readiness_known: true })
    );
    let mut strangers = Probing::start(config(), pki.bearer("expired"));
    strangers.publish(&[server.address]);
    strangers.until_state(server.address, HealthState::Healthy).await;
    assert_eq!(
        answered(&strangers, &server),
        Some(ReadyzAnswer { auth: AuthResult::Refused, readiness_known: false })
    );
}

#[tokio::test]
async fn expired_token_is_no_failure_and_the_next_one_is_used() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    until_taken_for(&mut probing, &server, AuthResult::Authenticated).await;
    let healthy = |view: &crate::model::health::HealthView| {
        let health = view.backends[&server.address];
        assert!(matches!(health.state, HealthState::Healthy | HealthState::Unknown), "{health:?}");
        assert_eq!(health.failure, None::<FailReason>, "{health:?}");
    };
    *server.shared.token.lock().unwrap() = Some("next".to_owned());
    probing.during(Duration::from_secs(3), healthy).await;
    assert_eq!(answered(&probing, &server).map(|found| found.auth), Some(AuthResult::Refused));
    probing.identity.send_replace(pki.bearer("next"));
    until_taken_for(&mut probing, &server, AuthResult::Authenticated).await;
    probing.during(Duration::from_secs(1), healthy).await;
}

/// The header goes with each request: another token needs no other connection.
#[tokio::test]
async fn renewed_token_is_used_on_the_open_connection() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    until_taken_for(&mut probing, &server, AuthResult::Authenticated).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connections = server.connections();
    probing.identity.send_replace(pki.bearer("next"));
    *server.shared.token.lock().unwrap() = Some("next".to_owned());
    let questions = server.questions();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(server.questions() > questions);
    assert_eq!(answered(&probing, &server).map(|found| found.auth), Some(AuthResult::Authenticated));
    assert!(server.connections() <= connections + 1, "a question between the two may have been refused");
}
