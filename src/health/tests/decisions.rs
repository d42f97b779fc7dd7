//! What becomes of backends as a whole.

use std::time::Duration;

use super::harness::{Probing, config};
use super::server::{Pki, Server};
use crate::model::health::{FailReason, HealthState};

#[tokio::test]
async fn snapshot_is_published_before_any_probe() {
    let pki = Pki::new("cluster");
    let silent = Server::start(pki.server(&["h2"])).await;
    silent.fall_silent();
    let mut probing = Probing::start(config(), pki.client());
    let received = probing.publish(&[silent.address]);
    let view = probing.until(|_| true).await;
    assert_eq!((view.noticed, view.state(silent.address)), (received, HealthState::Unknown));
    assert_eq!(view.snapshot.generation, 1);
    let received = probing.publish(&[silent.address]);
    let view = probing.until(|view| view.snapshot.generation == 2).await;
    assert_eq!(view.noticed, received);
    let (task, views) = probing.close();
    tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends with its input").unwrap();
    assert!(views.has_changed().is_err(), "nobody sends views any more");
}

#[tokio::test]
async fn single_hanging_backend_is_never_down() {
    let pki = Pki::new("cluster");
    let lone = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[lone.address]);
    probing.until_state(lone.address, HealthState::Healthy).await;
    lone.fall_silent();
    probing.until(|view| view.backends[&lone.address].failure == Some(FailReason::Timeout)).await;
    probing
        .during(Duration::from_secs(5), |view| {
            let health = view.backends[&lone.address];
            assert!(health.state == HealthState::Healthy && !health.end_flows, "{health:?}");
        })
        .await;
}

#[tokio::test]
async fn single_slow_backend_is_used() {
    let pki = Pki::new("cluster");
    let slow = Server::start(pki.server(&["h2"])).await;
    slow.wait_before_answers(Duration::from_secs(3));
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[slow.address]);
    probing.until_state(slow.address, HealthState::Healthy).await;
    assert!(slow.connections() <= 10, "{} connections; a burst makes 60", slow.connections());
    probing
        .during(Duration::from_secs(5), |view| {
            let health = view.backends[&slow.address];
            assert!(health.state == HealthState::Healthy && health.failure.is_none(), "{health:?}");
        })
        .await;
}

/// Pings of one that is slow are no evidence against another that is as slow.
#[tokio::test]
async fn where_all_are_slow_none_is_worse_than_another() {
    let pki = Pki::new("cluster");
    let (a, b) = (Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await);
    let mut probing = Probing::start(config(), pki.client());
    let backends = [a.address, b.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy)).await;
    for server in [&a, &b] {
        server.wait_before_answers(Duration::from_secs(3));
    }
    probing.suspects.send(a.address).unwrap();
    probing
        .during(Duration::from_secs(8), |view| {
            assert!(view.backends.values().all(|health| health.state == HealthState::Healthy), "{view:?}");
        })
        .await;
}

/// An apiserver without its etcd: Pings and handshakes as ever, and `/readyz` late, or never.
#[tokio::test]
async fn one_that_never_says_whether_it_is_ready_drains_until_its_cable_is_cut() {
    let pki = Pki::new("cluster");
    let (hangs, witness) =
        (Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await);
    let mut probing = Probing::start(config(), pki.client());
    let backends = [hangs.address, witness.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy)).await;
    let connections = hangs.connections();
    hangs.wait_before_answers(Duration::from_secs(60));
    let drains = |view: &crate::model::health::HealthView| {
        let health = view.backends[&hangs.address];
        assert!(
            health.state != HealthState::Suspect && !health.end_flows && health.failure.is_none(),
            "{health:?}"
        );
        health.state == HealthState::Draining
    };
    let view = probing.until(drains).await;
    assert!(view.backends[&hangs.address].answering);
    probing.during(Duration::from_secs(7), |view| assert!(drains(view))).await;
    let more = hangs.connections() - connections;
    assert!(more <= 10, "{more} further connections; a burst of 5 s makes 100");
    let cut = std::time::Instant::now();
    hangs.fall_silent();
    let view = probing.until_state(hangs.address, HealthState::Suspect).await;
    let took = view.backends[&hangs.address].since - cut;
    println!("Suspect {took:?} after it fell silent");
    assert!(took < Duration::from_secs(4), "about 1 s: {took:?}");
}

#[tokio::test]
async fn an_unready_one_drains_and_comes_back() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, HealthState::Healthy).await;
    server.say(500);
    let view = probing.until_state(server.address, HealthState::Draining).await;
    let health = view.backends[&server.address];
    assert!(health.published && health.answering && !health.end_flows && health.failure.is_none());
    assert!(probing.counted.of("unready") >= 2);
    server.say(200);
    probing.until_state(server.address, HealthState::Healthy).await;
}

#[tokio::test]
async fn removed_backend_drains_and_is_dropped() {
    let pki = Pki::new("cluster");
    let (stays, goes) = (Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await);
    let mut probing = Probing::start(config(), pki.client());
    probing.publish(&[stays.address, goes.address]);
    probing.until_state(goes.address, HealthState::Healthy).await;
    let received = probing.publish(&[stays.address]);
    let view = probing.until_state(goes.address, HealthState::Draining).await;
    // A later view, of a round trip that changed, may have taken the place of the one that was due to the removal.
    assert!(view.noticed >= received && !view.backends[&goes.address].published);
    probing.until(|view| !view.backends.contains_key(&goes.address)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let questions = goes.questions();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(goes.questions(), questions, "nobody asks it any more");
}

#[tokio::test]
async fn suspected_backend_is_probed_at_once() {
    let pki = Pki::new("cluster");
    let server = Server::start(pki.server(&["h2"])).await;
    // Nothing else asks it within this test.
    let rare = Duration::from_secs(600);
    let quiet =
        crate::health::ProbeConfig { interval: rare, ping_interval: rare, readyz_interval: rare, ..config() };
    let mut probing = Probing::start(quiet, pki.client());
    probing.publish(&[server.address]);
    probing.until_state(server.address, HealthState::Healthy).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (questions, answers) = (server.questions(), probing.counted.of("ready"));
    for _ in 0..100 {
        probing.suspects.send(server.address).unwrap();
    }
    probing.until(|view| !view.backends[&server.address].answering).await;
    probing.until(|view| view.backends[&server.address].answering).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(probing.counted.of("ready") > answers, "it was not asked");
    assert!(server.questions() - questions <= 4, "one hundred suspicions are one");
    assert_eq!(probing.view().state(server.address), HealthState::Healthy);
}

#[tokio::test]
async fn no_backend_is_suspect_while_all_are_dead() {
    let pki = Pki::new("cluster");
    let (a, b) = (Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await);
    let mut probing = Probing::start(config(), pki.client());
    let backends = [a.address, b.address];
    probing.publish(&backends);
    probing.until(|view| backends.iter().all(|backend| view.state(*backend) == HealthState::Healthy)).await;
    a.fall_silent();
    b.fall_silent();
    probing.until(|view| view.backends.values().all(|health| health.failure.is_some())).await;
    probing
        .during(Duration::from_secs(4), |view| {
            assert!(
                view.backends
                    .values()
                    .all(|health| health.state == HealthState::Healthy && !health.end_flows)
            );
        })
        .await;
}

/// The daemon's own process is stopped, again and again. The servers run on a thread of their own meanwhile.
#[test]
fn stopped_and_continued_daemon_marks_no_backend_down() {
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pki = Pki::new("cluster");
    let servers = elsewhere.block_on(async {
        [Server::start(pki.server(&["h2"])).await, Server::start(pki.server(&["h2"])).await]
    });
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    here.block_on(async {
        let mut probing = Probing::start(config(), pki.client());
        probing.publish(&servers.each_ref().map(|server| server.address));
        probing.until(|view| view.backends.values().all(|health| health.state == HealthState::Healthy)).await;
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1500));
            probing
                .during(Duration::from_millis(700), |view| {
                    assert!(
                        view.backends.values().all(|health| health.state == HealthState::Healthy),
                        "{view:?}"
                    );
                })
                .await;
        }
    });
}
