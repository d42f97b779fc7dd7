use std::net::IpAddr;

use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use proptest::prelude::*;

use super::super::build;
use super::super::build::tests::any_state;
use super::super::decode::{address_of, parse};
use super::*;

/// The messages of a batch as (type, flags, sequence, attributes).
fn messages(bytes: &[u8]) -> Vec<(u16, u16, u32, Vec<u8>)> {
    let mut rest = bytes;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).unwrap();
        let (kind, flags, sequence) = (message.message_type(), message.flags(), message.sequence_number());
        all.push((kind, flags, sequence, message.payload()[4..].to_vec()));
        let len = usize::try_from(message.length()).unwrap();
        assert_eq!(len % 4, 0, "a message that is not aligned");
        rest = &rest[len..];
    }
    all
}

fn walk(attrs: &[u8]) {
    for attr in NlasIterator::new(attrs) {
        let attr = attr.unwrap();
        assert!(usize::from(attr.length()) <= 0xffff);
        if attr.nested_flag() {
            walk(attr.value());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_batch_is_well_formed(state in any_state(), first in any::<u32>()) {
        let steps = replace(&build::table(&state), &ObservedTable::default(), Ownership::Owned);
        let batch = batch(&steps, first, None);
        let messages = messages(&batch.bytes);
        prop_assert_eq!(messages.len(), steps.len() + 2);
        prop_assert_eq!(messages[0].0, BATCH_BEGIN);
        prop_assert_eq!(messages.last().unwrap().0, BATCH_END);
        for (index, (kind, flags, sequence, attrs)) in messages.iter().enumerate() {
            prop_assert_eq!(*sequence, first.wrapping_add(u32::try_from(index).unwrap()));
            let is_last = index == steps.len();
            prop_assert_eq!(flags & NLM_F_ACK != 0, is_last, "only the last step is acknowledged");
            prop_assert!(index == 0 || index > steps.len() || kind >> 8 == SUBSYSTEM);
            walk(attrs);
        }
    }

    #[test]
    fn encoded_chains_and_counters_decode_to_the_same(state in any_state()) {
        let table = build::table(&state);
        let batch = batch(&replace(&table, &ObservedTable::default(), Ownership::Plain), 1, None);
        let mut observed = ObservedTable::default();
        for reply in parse(&batch.bytes).unwrap() {
            observed.add(reply.content);
        }
        prop_assert!(observed.exists && !observed.foreign);
        prop_assert!(observed.has_base_chains_of(&table));
        prop_assert_eq!(observed.chains.len(), table.chains.len());
        prop_assert_eq!(observed.counters.len(), table.counters.len());
    }
}

pub(in super::super) fn state(backends: &[&str]) -> crate::model::desired::DesiredState {
    crate::model::desired::DesiredState {
        service: "default/kubernetes".parse().unwrap(),
        frontends: vec![crate::model::desired::DesiredFrontend {
            vip: "10.96.0.1:443".parse().unwrap(),
            port_name: String::new(),
            affinity: crate::model::snapshot::Affinity::None,
            backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
            failed: Vec::new(),
            local_route_allowed: true,
        }],
        source: crate::model::desired::SourcePolicy::default(),
        forwarding: false,
    }
}

/// What the kernel would have after `table` was programmed.
fn observed(table: &Table) -> ObservedTable {
    let mut observed = ObservedTable::default();
    for reply in
        parse(&batch(&replace(table, &ObservedTable::default(), Ownership::Plain), 1, None).bytes).unwrap()
    {
        observed.add(reply.content);
    }
    observed
}

fn whats(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|s| s.what.as_str()).collect()
}

#[test]
fn replacement_keeps_table_base_chains_and_wanted_counters() {
    let before = build::table(&state(&["192.0.2.11:6443", "192.0.2.12:6443"]));
    let after = build::table(&state(&["192.0.2.12:6443", "192.0.2.13:6443"]));
    let steps = replace(&after, &observed(&before), Ownership::Plain);
    let whats = whats(&steps);
    assert!(!whats.contains(&"delete table inet apivip"));
    assert!(!whats.iter().any(|w| w.contains("chain nat-") && !w.contains("rule")), "{whats:?}");
    assert!(whats.contains(&"delete counter backend-192.0.2.11-6443"));
    assert!(!whats.contains(&"delete counter backend-192.0.2.12-6443"));
    assert!(whats.contains(&"add counter backend-192.0.2.13-6443"));
}

#[test]
fn backend_failure_and_recovery_change_only_set_elements() {
    let alive = state(&["192.0.2.11:6443", "192.0.2.12:6443"]);
    let mut one_dead = state(&["192.0.2.11:6443"]);
    one_dead.frontends[0].failed = vec!["192.0.2.12:6443".parse().unwrap()];
    let (alive, one_dead) = (build::table(&alive), build::table(&one_dead));
    for (from, to, added) in [(&alive, &one_dead, true), (&one_dead, &alive, false)] {
        let steps = replace(to, &observed(from), Ownership::Plain);
        let about: Vec<_> = whats(&steps).into_iter().filter(|what| what.contains("set dead-")).collect();
        let mut expected = vec!["empty set dead-10.96.0.1-443"];
        expected.extend(added.then_some("add elements of set dead-10.96.0.1-443"));
        assert_eq!(about, expected);
    }
    assert_eq!(observed(&one_dead).dead, ["192.0.2.12:6443".parse().unwrap()].into());
}

#[test]
fn set_of_other_shape_recreates_table_and_unwanted_set_is_deleted() {
    let table = build::table(&state(&["192.0.2.11:6443"]));
    let mut other = observed(&table);
    other.sets.values_mut().for_each(|shape| shape.timeout = 1);
    assert_eq!(whats(&replace(&table, &other, Ownership::Plain))[0], "delete table inet apivip");
    let mut more = observed(&table);
    let shape = more.sets["dead-10.96.0.1-443"];
    more.sets.insert("dead-10.96.0.2-443".to_owned(), shape);
    assert!(whats(&replace(&table, &more, Ownership::Plain)).contains(&"delete set dead-10.96.0.2-443"));
}

#[test]
fn tampered_table_is_recreated_with_its_counter_values() {
    let table = build::table(&state(&["192.0.2.11:6443"]));
    let mut tampered = observed(&table);
    tampered.foreign = true;
    tampered.counters.insert("backend-192.0.2.11-6443".to_owned(), Count { packets: 7, bytes: 420 });
    let steps = replace(&table, &tampered, Ownership::Plain);
    assert_eq!(whats(&steps)[0], "delete table inet apivip");
    let mut again = ObservedTable::default();
    parse(&batch(&steps, 1, None).bytes).unwrap().into_iter().for_each(|r| again.add(r.content));
    assert_eq!(again.counters["backend-192.0.2.11-6443"], Count { packets: 7, bytes: 420 });
}

#[test]
fn removal_without_table_has_no_steps() {
    assert!(remove(&ObservedTable::default()).is_empty());
}

#[test]
fn ownership_changes_in_place_only_where_kernel_allows() {
    let table = build::table(&state(&["192.0.2.11:6443"]));
    let (plain, orphan) =
        (observed(&table), ObservedTable { flags: table::FLAG_PERSIST, ..observed(&table) });
    let anew = |before, ownership| {
        let steps = replace(&table, before, ownership);
        let tables = steps.iter().filter(|s| s.kind == msg::NEWTABLE);
        let flags = be32(table::FLAGS, ownership.flags());
        assert!(tables.clone().all(|s| s.attrs.windows(8).any(|w| w == emit(std::slice::from_ref(&flags)))));
        assert_eq!(tables.count(), 1);
        steps[0].kind == msg::DELTABLE
    };
    assert!(anew(&plain, Ownership::Owned), "plain to owned");
    assert!(!anew(&orphan, Ownership::Owned), "an orphan is taken in");
    assert!(anew(&orphan, Ownership::Plain), "an orphan to plain");
    assert!(!anew(&plain, Ownership::Plain));
}

#[test]
fn generation_is_sent_with_batch_begin() {
    let messages = messages(&batch(&[delete_table()], 1, Some(7)).bytes);
    assert_eq!(messages[0].3, emit(&[be32(BATCH_GENERATION, 7)]));
    assert!(messages[1..].iter().all(|m| m.3 != messages[0].3));
}

#[test]
fn set_key_is_padded_to_whole_words() {
    assert_eq!(set_key("192.0.2.1:6443".parse().unwrap()), [192, 0, 2, 1, 0x19, 0x2b, 0, 0]);
    assert_eq!(set_key("[2001:db8::1]:443".parse().unwrap()).len(), 20);
}

proptest! {
    #[test]
    fn set_keys_are_read_back(ip: IpAddr, port: u16) {
        let backend = SocketAddr::new(ip, port);
        prop_assert_eq!(address_of(&set_key(backend)), Some(backend));
    }

    #[test]
    fn arbitrary_set_keys_do_not_panic(input: Vec<u8>) {
        let _ = address_of(&input);
    }
}
