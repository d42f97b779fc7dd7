use super::super::attr::{be32, emit, string};
use super::super::kernel::{FAMILY_INET, table};
use super::super::wire::push;
use super::*;

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
fn whoever_touches_the_table_is_named_once_for_each_transaction() {
    let mut follower = Follower::default();
    let datagram = [deleted("apivip", 5), deleted("apivip", 5), generation_by(42, 5)].concat();
    assert_eq!(follower.take(&datagram, OWN).unwrap(), [culprit(42)]);
    assert_eq!(follower.take(&generation_by(43, 5), OWN).unwrap(), []);
}

#[test]
fn a_transaction_may_come_in_several_datagrams() {
    let mut follower = Follower::default();
    assert_eq!(follower.take(&deleted("apivip", 5), OWN).unwrap(), []);
    assert_eq!(follower.take(&deleted("other", 5), OWN).unwrap(), []);
    assert_eq!(follower.take(&generation_by(42, 5), OWN).unwrap(), [culprit(42)]);
}

#[test]
fn our_own_transactions_and_tables_of_others_are_no_news() {
    let mut follower = Follower::default();
    let own = [deleted("apivip", OWN), generation_by(1, OWN)].concat();
    assert_eq!(follower.take(&own, OWN).unwrap(), []);
    let others = [deleted("apivip2", 5), deleted("apivi", 5), generation_by(42, 5)].concat();
    assert_eq!(follower.take(&others, OWN).unwrap(), []);
}

#[test]
fn a_kernel_that_does_not_say_who_it_was_still_says_that_it_was() {
    let mut follower = Follower::default();
    let datagram = [deleted("apivip", 5), message(msg::NEWGEN, 5, &[])].concat();
    assert_eq!(follower.take(&datagram, OWN).unwrap(), [Culprit { pid: 0, name: String::new() }]);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let _ = Follower::default().take(&bytes, OWN);
    }
}
