use proptest::prelude::*;

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
fn errors_and_acknowledgements_are_told_apart() {
    let datagram = [error_message(0, 5), error_message(-1, 6)].concat();
    let replies = parse(&datagram).unwrap();
    let read: Vec<_> = replies.iter().map(|r| (r.sequence, r.content.clone())).collect();
    assert_eq!(read, [(5, Content::Outcome(None)), (6, Content::Outcome(Some(1)))]);
}

#[test]
fn the_lowest_errno_does_not_overflow() {
    let replies = parse(&error_message(i32::MIN, 1)).unwrap();
    assert_eq!(replies[0].content, Content::Outcome(Some(i32::MAX)));
}

#[test]
fn a_message_that_claims_more_than_there_is_is_malformed() {
    let mut message = error_message(0, 1);
    message[0] = 200;
    assert!(parse(&message).is_err());
    assert!(parse(&[1, 2, 3]).is_err());
    assert!(parse(&[]).unwrap().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn nor_does_a_true_message_with_flipped_bytes(flips in prop::collection::vec((0usize..36, any::<u8>()), 0..6)) {
        let mut message = error_message(-13, 9);
        for (at, value) in flips {
            message[at] = value;
        }
        let _ = parse(&message);
    }
}
