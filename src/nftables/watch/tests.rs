use super::super::encode::push;
use super::super::uapi::{FAMILY_INET, table};
use super::*;
use crate::netlink::message::{be32, emit, string};

const OWN: u32 = 77;

/// A message from the socket `port`.
fn message(kind: u16, port: u32, attrs: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, (SUBSYSTEM << 8) | kind, 0, 1, FAMILY_INET, 0, attrs);
    bytes[12..16].copy_from_slice(&port.to_ne_bytes());
    bytes
}

fn deleted(name: &str, port: u32) -> Vec<u8> {
    message(msg::DELTABLE, port, &emit(&[string(table::NAME, name)]))
}

fn generation_by(pid: u32, port: u32) -> Vec<u8> {
    let attrs = [
        be32(generation::ID, 9),
        be32(generation::PROC_PID, pid),
        string(generation::PROC_NAME, "firewalld"),
    ];
    message(msg::NEWGEN, port, &emit(&attrs))
}

fn culprit(pid: u32) -> Culprit {
    Culprit { pid, name: "firewalld".to_owned() }
}

#[test]
fn culprit_is_named_once_per_transaction() {
    let mut follower = Follower::default();
    let datagram = [deleted("apivip", 5), deleted("apivip", 5), generation_by(42, 5)].concat();
    assert_eq!(follower.take(&datagram, OWN).unwrap(), [culprit(42)]);
    assert_eq!(follower.take(&generation_by(43, 5), OWN).unwrap(), []);
}

#[test]
fn transaction_is_followed_over_several_datagrams() {
    let mut follower = Follower::default();
    assert_eq!(follower.take(&deleted("apivip", 5), OWN).unwrap(), []);
    assert_eq!(follower.take(&deleted("other", 5), OWN).unwrap(), []);
    assert_eq!(follower.take(&generation_by(42, 5), OWN).unwrap(), [culprit(42)]);
}

#[test]
fn own_transactions_and_other_tables_are_ignored() {
    let mut follower = Follower::default();
    let own = [deleted("apivip", OWN), generation_by(1, OWN)].concat();
    assert_eq!(follower.take(&own, OWN).unwrap(), []);
    let others = [deleted("apivip2", 5), deleted("apivi", 5), generation_by(42, 5)].concat();
    assert_eq!(follower.take(&others, OWN).unwrap(), []);
}

#[test]
fn generation_without_process_yields_unnamed_culprit() {
    let mut follower = Follower::default();
    let datagram = [deleted("apivip", 5), message(msg::NEWGEN, 5, &[])].concat();
    assert_eq!(follower.take(&datagram, OWN).unwrap(), [Culprit { pid: 0, name: String::new() }]);
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let _ = Follower::default().take(&bytes, OWN);
    }
}

#[tokio::test(start_paused = true)]
async fn table_is_verified_periodically_without_events() {
    let mut watch = TableWatch { events: None, ..TableWatch::open() };
    let before = Instant::now();
    assert_eq!(watch.wait_for_suspicion(1).await.source, DriftSource::Check);
    assert_eq!(before.elapsed(), CHECK);
    assert_eq!(
        watch.wait_for_suspicion(1).await.source,
        DriftSource::Check,
        "the suspicion stays until it is settled"
    );
    assert_eq!(before.elapsed(), CHECK);
    watch.settle();
    watch.wait_for_suspicion(1).await;
    assert_eq!(before.elapsed(), 2 * CHECK);
}

#[tokio::test(start_paused = true)]
async fn failed_event_socket_is_reopened_at_next_check() {
    let mut watch = TableWatch { events: None, failed: true, ..TableWatch::open() };
    watch.wait_for_suspicion(1).await;
    assert!(watch.events.is_some() && !watch.failed);
}

#[test]
fn lost_events_raise_suspicion_and_later_culprit_is_added() {
    let (mut follower, mut suspicion) = (Follower::default(), None);
    record(Notification::Datagram(&[]), 1, &mut follower, &mut suspicion);
    assert_eq!(suspicion, None);
    record(Notification::Lost, 1, &mut follower, &mut suspicion);
    assert_eq!(suspicion.as_ref().map(|drift| drift.source), Some(DriftSource::Lost));
    let culprit = Culprit { pid: 42, name: "nft".to_owned() };
    suspicion.iter_mut().for_each(|drift| drift.blame(culprit.clone()));
    assert_eq!(suspicion.and_then(|drift| drift.who()).as_deref(), Some("nft (pid 42)"));
}
