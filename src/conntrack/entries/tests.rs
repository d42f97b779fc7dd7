//! Entries as the kernel writes them, and bytes that it never would.

use proptest::prelude::*;

use super::*;

/// A body as a dump carries it.
fn body(entry: &Entry, state: u8) -> Vec<u8> {
    let side = |source: SocketAddr, destination: SocketAddr| {
        [
            attr::nest(
                TUPLE_IP,
                &[
                    attr::address(IP_V4_SRC, IP_V6_SRC, source.ip()),
                    attr::address(IP_V4_DST, IP_V6_DST, destination.ip()),
                ],
            ),
            attr::nest(
                TUPLE_PROTO,
                &[
                    attr::byte(PROTO_NUM, IPPROTO_TCP),
                    attr::be16(PROTO_SRC_PORT, source.port()),
                    attr::be16(PROTO_DST_PORT, destination.port()),
                ],
            ),
        ]
    };
    let mut original = side(entry.flow.client, entry.flow.vip).to_vec();
    original.extend(entry.tuple_zone.map(|zone| attr::bytes(TUPLE_ZONE, &zone)));
    let mut attrs = vec![
        attr::nest(TUPLE_ORIG, &original),
        attr::nest(TUPLE_REPLY, &side(entry.answers, entry.translated)),
        attr::nest(PROTOINFO, &[attr::nest(PROTOINFO_TCP, &[attr::byte(PROTOINFO_TCP_STATE, state)])]),
    ];
    if let Some(ByteCounts { up, down }) = entry.bytes {
        for (direction, bytes) in [(COUNTERS_ORIG, up), (COUNTERS_REPLY, down)] {
            let counted =
                [attr::bytes(1, &3u64.to_be_bytes()), attr::bytes(COUNTERS_BYTES, &bytes.to_be_bytes())];
            attrs.push(attr::nest(direction, &counted));
        }
    }
    attrs.extend(entry.id.map(|id| attr::bytes(ID, &id)));
    attrs.extend(entry.zone.map(|zone| attr::bytes(ZONE, &zone)));
    let mut body = header(entry.flow.vip.ip());
    body.extend(attr::emit(&attrs));
    body
}

/// An open flow to an IPv4 backend.
pub(in super::super) fn sample() -> Entry {
    Entry {
        flow: Flow { client: "10.244.0.11:40000".parse().unwrap(), vip: "10.96.0.1:443".parse().unwrap() },
        answers: "192.0.2.11:6443".parse().unwrap(),
        translated: "192.0.2.1:50000".parse().unwrap(),
        state: State::Open,
        bytes: None,
        id: Some([1, 2, 3, 4]),
        zone: None,
        tuple_zone: None,
    }
}

#[test]
fn a_dump_request_is_what_the_kernel_expects() {
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
fn an_ipv6_dump_filters_by_ports_alone() {
    let (vip, backend) = ("[fd00::1]:443".parse().unwrap(), "[2001:db8::1]:6443".parse().unwrap());
    let body = dump(vip, backend);
    let original = attr::find(&body[GENERIC_HEADER..], TUPLE_ORIG).unwrap().unwrap();
    assert_eq!(attr::find(original, TUPLE_IP).unwrap(), None);
    assert_eq!(dump_port(vip, 6443), body);
    assert_eq!(dump_all(vip.ip()), [10, 0, 0, 0]);
}

#[test]
fn states_are_told_apart() {
    let expected = [
        (0, State::Other),
        (1, State::Unanswered),
        (2, State::HalfOpen),
        (3, State::Open),
        (4, State::Open),
        (5, State::Open),
        (6, State::Closing),
        (7, State::Closing),
        (8, State::Ended),
        (9, State::Unanswered),
    ];
    for (number, state) in expected {
        assert_eq!(entry(&body(&sample(), number)).unwrap().unwrap().state, state, "{number}");
    }
}

#[test]
fn zones_and_ids_come_back_in_a_deletion() {
    for (zone, tuple_zone) in [(None, None), (Some([0, 7]), None), (None, Some([0, 9]))] {
        let wanted = Entry { zone, tuple_zone, ..sample() };
        let read = entry(&body(&wanted, 3)).unwrap().unwrap();
        assert_eq!(read, wanted);
        let deletion = delete(&read);
        let attrs = &deletion[GENERIC_HEADER..];
        assert_eq!(attr::fixed(attrs, ZONE).unwrap(), zone);
        assert_eq!(attr::fixed(attrs, ID).unwrap(), Some([1, 2, 3, 4]));
        let original = attr::find(attrs, TUPLE_ORIG).unwrap().unwrap();
        assert_eq!(attr::fixed(original, TUPLE_ZONE).unwrap(), tuple_zone);
        assert_eq!(tuple(original).unwrap(), Some((wanted.flow.client, wanted.flow.vip)));
    }
}

proptest! {
    #[test]
    fn entries_of_both_families_are_read(
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
                answers: "[2001:db8::11]:6443".parse().unwrap(),
                translated: "[2001:db8::1]:50000".parse().unwrap(),
                ..sample()
            }
        } else {
            let ip = <[u8; 4]>::try_from(&client[..4]).unwrap();
            Entry { flow: Flow { client: SocketAddr::new(ip.into(), port), ..sample().flow }, ..sample() }
        };
        let wanted = Entry { bytes: bytes.map(|(up, down)| ByteCounts { up, down }), ..wanted };
        let read = entry(&body(&wanted, state)).unwrap().unwrap();
        prop_assert_eq!(read, Entry { state: State::of(state), ..wanted });
    }

    #[test]
    fn no_bytes_panic(input: Vec<u8>) {
        let _ = entry(&input);
    }

    #[test]
    fn no_broken_entry_panics(at: prop::sample::Index, value: u8) {
        let mut body = body(&sample(), 3);
        let at = at.index(body.len());
        body[at] = value;
        let _ = entry(&body);
    }
}
