//! Entries as the kernel writes them, and bytes that it never would.

use proptest::prelude::*;

use super::*;
use crate::netlink::message::NFGENMSG_LEN;

/// A body as a dump carries it.
fn body(entry: &Entry, state: u8) -> Vec<u8> {
    let side = |source: SocketAddr, destination: SocketAddr| {
        [
            message::nest(
                TUPLE_IP,
                &[
                    message::address(IP_V4_SRC, IP_V6_SRC, source.ip()),
                    message::address(IP_V4_DST, IP_V6_DST, destination.ip()),
                ],
            ),
            message::nest(
                TUPLE_PROTO,
                &[
                    message::byte(PROTO_NUM, IPPROTO_TCP),
                    message::be16(PROTO_SRC_PORT, source.port()),
                    message::be16(PROTO_DST_PORT, destination.port()),
                ],
            ),
        ]
    };
    let mut original = side(entry.flow.client, entry.flow.vip).to_vec();
    original.extend(entry.tuple_zone.map(|zone| message::bytes(TUPLE_ZONE, &zone)));
    let mut attrs = vec![
        message::nest(TUPLE_ORIG, &original),
        message::nest(TUPLE_REPLY, &side(entry.backend, entry.client_at_backend)),
        message::nest(
            PROTOINFO,
            &[message::nest(PROTOINFO_TCP, &[message::byte(PROTOINFO_TCP_STATE, state)])],
        ),
    ];
    if let Some(ByteCounts { up, down }) = entry.bytes {
        for (direction, bytes) in [(COUNTERS_ORIG, up), (COUNTERS_REPLY, down)] {
            let counted = [
                message::bytes(1, &3u64.to_be_bytes()),
                message::bytes(COUNTERS_BYTES, &bytes.to_be_bytes()),
            ];
            attrs.push(message::nest(direction, &counted));
        }
    }
    attrs.extend(entry.id.map(|id| message::bytes(ID, &id)));
    attrs.extend(entry.zone.map(|zone| message::bytes(ZONE, &zone)));
    let mut body = header(entry.flow.vip.ip());
    body.extend(message::emit(&attrs));
    body
}

/// An open flow to an IPv4 backend.
pub(in super::super) fn sample() -> Entry {
    Entry {
        flow: Flow { client: "10.244.0.11:40000".parse().unwrap(), vip: "10.96.0.1:443".parse().unwrap() },
        backend: "192.0.2.11:6443".parse().unwrap(),
        client_at_backend: "192.0.2.1:50000".parse().unwrap(),
        state: TcpState::Open,
        bytes: None,
        id: Some([1, 2, 3, 4]),
        zone: None,
        tuple_zone: None,
    }
}

#[test]
fn dump_request_matches_kernel_format() {
    let mut expected = vec![2, 0, 0, 0];
    expected.extend([36, 0, 1, 0x80, 20, 0, 2, 0x80, 5, 0, 1, 0, 6, 0, 0, 0, 6, 0, 3, 0, 1, 187, 0, 0]);
    expected.extend([12, 0, 1, 0x80, 8, 0, 2, 0, 10, 96, 0, 1]);
    expected.extend([36, 0, 2, 0x80, 20, 0, 2, 0x80, 5, 0, 1, 0, 6, 0, 0, 0, 6, 0, 2, 0, 0x19, 0x2b, 0, 0]);
    expected.extend([12, 0, 1, 0x80, 8, 0, 1, 0, 192, 0, 2, 11]);
    expected.extend([20, 0, 25, 0x80, 8, 0, 1, 0, 42, 0, 0, 0, 8, 0, 2, 0, 25, 0, 0, 0]);
    let body = dump("10.96.0.1:443".parse().unwrap(), "192.0.2.11:6443".parse().unwrap());
    if cfg!(target_endian = "little") {
        assert_eq!(body, expected);
    }
}

#[test]
fn ipv6_dump_filters_by_ports_only() {
    let (vip, backend) = ("[fd00::1]:443".parse().unwrap(), "[2001:db8::1]:6443".parse().unwrap());
    let body = dump(vip, backend);
    let original = message::find(&body[NFGENMSG_LEN..], TUPLE_ORIG).unwrap().unwrap();
    assert_eq!(message::find(original, TUPLE_IP).unwrap(), None);
    assert_eq!(dump_port(vip, 6443), body);
    assert_eq!(dump_all(vip.ip()), [10, 0, 0, 0]);
}

#[test]
fn tcp_states_are_mapped() {
    let expected = [
        (0, TcpState::Other),
        (1, TcpState::Unanswered),
        (2, TcpState::HalfOpen),
        (3, TcpState::Open),
        (4, TcpState::Open),
        (5, TcpState::Open),
        (6, TcpState::Closing),
        (7, TcpState::Closing),
        (8, TcpState::Ended),
        (9, TcpState::Unanswered),
    ];
    for (number, state) in expected {
        assert_eq!(entry(&body(&sample(), number)).unwrap().unwrap().state, state, "{number}");
    }
}

#[test]
fn entry_that_went_on_or_was_replaced_is_not_unchanged() {
    let listed = Entry { state: TcpState::Unanswered, ..sample() };
    assert!(listed.is_unchanged_in(&body(&listed, 1)));
    // SYN_RECV and ESTABLISHED: it was answered after the list was read.
    assert!(!listed.is_unchanged_in(&body(&listed, 2)));
    assert!(!listed.is_unchanged_in(&body(&listed, 3)));
    let later = Entry { id: Some([9; 4]), ..listed.clone() };
    assert!(!listed.is_unchanged_in(&body(&later, 1)));
    let elsewhere = Entry { backend: "192.0.2.99:6443".parse().unwrap(), ..listed.clone() };
    assert!(!listed.is_unchanged_in(&body(&elsewhere, 1)));
    assert!(!listed.is_unchanged_in(b"garbage"));
}

#[test]
fn deletion_names_zone_and_id_of_the_entry() {
    for (zone, tuple_zone) in [(None, None), (Some([0, 7]), None), (None, Some([0, 9]))] {
        let wanted = Entry { zone, tuple_zone, ..sample() };
        let read = entry(&body(&wanted, 3)).unwrap().unwrap();
        assert_eq!(read, wanted);
        let deletion = identify(&read);
        let attrs = &deletion[NFGENMSG_LEN..];
        assert_eq!(message::fixed(attrs, ZONE).unwrap(), zone);
        assert_eq!(message::fixed(attrs, ID).unwrap(), Some([1, 2, 3, 4]));
        let original = message::find(attrs, TUPLE_ORIG).unwrap().unwrap();
        assert_eq!(message::fixed(original, TUPLE_ZONE).unwrap(), tuple_zone);
        assert_eq!(tuple(original).unwrap(), Some((wanted.flow.client, wanted.flow.vip)));
    }
}

proptest! {
    #[test]
    fn entries_of_both_families_are_parsed(
        client: [u8; 16],
        port: u16,
        v6: bool,
        state in 0u8..=9,
        bytes: Option<(u64, u64)>,
    ) {
        let wanted = if v6 {
            Entry {
                flow: Flow {
                    client: SocketAddr::new(client.into(), port),
                    vip: "[fd00:10:96::1]:443".parse().unwrap(),
                },
                backend: "[2001:db8::11]:6443".parse().unwrap(),
                client_at_backend: "[2001:db8::1]:50000".parse().unwrap(),
                ..sample()
            }
        } else {
            let ip = <[u8; 4]>::try_from(&client[..4]).unwrap();
            Entry { flow: Flow { client: SocketAddr::new(ip.into(), port), ..sample().flow }, ..sample() }
        };
        let wanted = Entry { bytes: bytes.map(|(up, down)| ByteCounts { up, down }), ..wanted };
        let read = entry(&body(&wanted, state)).unwrap().unwrap();
        prop_assert_eq!(read, Entry { state: TcpState::of(state), ..wanted });
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(input: Vec<u8>) {
        let _ = entry(&input);
    }

    #[test]
    fn broken_entry_does_not_panic(at: prop::sample::Index, value: u8) {
        let mut body = body(&sample(), 3);
        let at = at.index(body.len());
        body[at] = value;
        let _ = entry(&body);
    }
}
