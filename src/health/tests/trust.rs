//! Whom to trust, and how that changes.

use std::time::Duration;

use super::harness::{Probing, config};
use super::pki::Pki;
use super::server::Server;
use crate::model::health::{FailReason, State};

#[tokio::test]
async fn a_ca_that_was_replaced_is_used_for_the_next_handshake() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let renewed = Server::start(new.server(&["h2"])).await;
    let kept = Server::start(old.server(&["h2"])).await;
    let mut probing = Probing::start(config(), old.client());
    probing.publish(&[renewed.address, kept.address]);
    let view = probing.until_state(renewed.address, State::Suspect).await;
    assert_eq!(view.backends[&renewed.address].failing, Some(FailReason::BadCertificate));
    assert_eq!(view.state(kept.address), State::Healthy);
    probing.identity.send_replace(new.client());
    probing.until_state(renewed.address, State::Healthy).await;
    let connections = kept.connections();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(probing.view().state(kept.address), State::Healthy, "its connection stays");
    assert_eq!(kept.connections(), connections);
}

#[tokio::test]
async fn if_no_certificate_verifies_none_is_down() {
    let (pki, stale) = (Pki::new("cluster"), Pki::new("stale"));
    let servers = [Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await];
    let mut probing = Probing::start(config(), stale.client());
    probing.publish(&servers.each_ref().map(|server| server.address));
    let bad = Some(FailReason::BadCertificate);
    probing.until(|view| view.backends.values().all(|health| health.failing == bad)).await;
    probing
        .during(Duration::from_secs(3), |view| {
            assert!(view.backends.values().all(|health| health.state == State::Unknown));
        })
        .await;
    assert!(probing.counted.of("bad-certificate") >= 4);
}
