use proptest::prelude::*;

use super::super::build;
use super::super::encode::{batch, replace, tests::state};
use super::super::table::Ownership;
use super::*;

/// An NLMSG_ERROR with this errno (negative, as the kernel writes it) in answer to message `sequence`.
fn error_message(code: i32, sequence: u32) -> Vec<u8> {
    let mut message = 36u32.to_ne_bytes().to_vec();
    message.extend(NLMSG_ERROR.to_ne_bytes());
    message.extend([0, 0]);
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(code.to_ne_bytes());
    message.extend([0; 16]);
    message
}

#[test]
fn errors_and_acknowledgements_are_distinguished() {
    let datagram = [error_message(0, 5), error_message(-1, 6)].concat();
    let replies = parse(&datagram).unwrap();
    let read: Vec<_> = replies.iter().map(|r| (r.sequence, r.content.clone())).collect();
    assert_eq!(read, [(5, ReplyContent::Outcome(None)), (6, ReplyContent::Outcome(Some(1)))]);
}

#[test]
fn lowest_errno_does_not_overflow() {
    let replies = parse(&error_message(i32::MIN, 1)).unwrap();
    assert_eq!(replies[0].content, ReplyContent::Outcome(Some(i32::MAX)));
}

#[test]
fn message_longer_than_datagram_is_malformed() {
    let mut message = error_message(0, 1);
    message[0] = 200;
    assert!(parse(&message).is_err());
    assert!(parse(&[1, 2, 3]).is_err());
    assert!(parse(&[]).unwrap().is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn error_message_with_flipped_bytes_does_not_panic(flips in prop::collection::vec((0usize..36, any::<u8>()), 0..6)) {
        let mut message = error_message(-13, 9);
        for (at, value) in flips {
            message[at] = value;
        }
        let _ = parse(&message);
    }
}

/// The fingerprint of a kernel that lists what it was sent.
fn of(table: &Table, ownership: Ownership, with_counter: u64) -> u64 {
    let mut before = ObservedTable { exists: true, foreign: true, ..ObservedTable::default() };
    let count = Count { packets: with_counter, bytes: with_counter };
    before.counters.extend(table.counters.iter().map(|c| (c.name.clone(), count)));
    let mut print = Fingerprint::default();
    let batch = batch(&replace(table, &before, ownership), 1, None);
    for sequence in 1..=u32::try_from(batch.steps.len() + 1).unwrap() {
        print.add(&batch.bytes, sequence).unwrap();
    }
    print.finish()
}

#[test]
fn fingerprint_ignores_counter_values_and_nothing_else() {
    let mut table = build::table(&state(&["192.0.2.11:6443", "192.0.2.12:6443"]));
    let plain = of(&table, Ownership::Plain, 0);
    assert_eq!(plain, of(&table, Ownership::Plain, 7));
    assert_ne!(plain, of(&table, Ownership::Owned, 0));
    table.chains.swap(0, 1);
    assert_ne!(plain, of(&table, Ownership::Plain, 0));
    table.chains.swap(0, 1);
    table.chains[0].rules.clear();
    assert_ne!(plain, of(&table, Ownership::Plain, 0));
}

proptest! {
    #[test]
    fn a_fingerprint_of_arbitrary_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Fingerprint::default().add(&bytes, 0);
    }
}
