//! Named sets of addresses with ports, whose elements expire: how they are made, filled and recognised. Pure.
//!
//! In: a [`Set`] of the table to install, or what the kernel says of one. Out: steps of a transaction, or addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::NLM_F_CREATE;

use super::attr::{Attr, be32, be64, bytes, comment, nest, string, user_entry};
use super::instruction::{address_len, octets};
use super::kernel::{data, elem, msg, rule, set, udata};
use super::table::{Element, Set, TABLE_NAME};
use super::wire::{ELEMENTS_PER_MESSAGE, Step, step};
use crate::model::types::{Backend, Family};

/// Each field of a concatenation takes a multiple of this.
const WORD: usize = 4;
const PORT_LEN: usize = 2;

/// The properties by which a set is one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `NFTA_SET_FLAGS`.
    pub flags: u32,
    /// nft's number for the type of its keys.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_len: u32,
    /// Milliseconds until an element expires.
    pub timeout: u64,
}

impl Shape {
    /// That of a set which the table has.
    pub(super) fn of(set: &Set) -> Self {
        let address = match set.family {
            Family::V4 => udata::TYPE_IPV4,
            Family::V6 => udata::TYPE_IPV6,
        };
        Self {
            flags: set::FLAG_TIMEOUT,
            key_type: address << udata::TYPE_BITS | udata::TYPE_SERVICE,
            key_len: u32::try_from(address_len(set.family) + WORD).unwrap_or(0),
            timeout: milliseconds(set.timeout),
        }
    }
}

fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Makes it, still empty. `id` is unique within the transaction.
pub(super) fn add(set: &Set, id: u32) -> Step {
    let shape = Shape::of(set);
    let mut text = set.comment.as_bytes().to_vec();
    text.push(0);
    step(
        format!("add set {}", set.name),
        msg::NEWSET,
        NLM_F_CREATE,
        &[
            string(set::TABLE, TABLE_NAME),
            string(set::NAME, &set.name),
            be32(set::FLAGS, shape.flags),
            be32(set::KEY_TYPE, shape.key_type),
            be32(set::KEY_LEN, shape.key_len),
            be32(set::ID, id),
            be64(set::TIMEOUT, shape.timeout),
            bytes(set::USERDATA, &user_entry(udata::SET_COMMENT, &text)),
        ],
    )
}

/// Removes it. No rule may refer to it any more.
pub(super) fn delete(name: &str) -> Step {
    step(
        format!("delete set {name}"),
        msg::DELSET,
        0,
        &[string(set::TABLE, TABLE_NAME), string(set::NAME, name)],
    )
}

/// Puts these elements in place of whatever it holds, with their whole time ahead of them: before 6.12 an element that
/// is added again keeps the time that it had.
pub(super) fn fill<'a>(name: &str, elements: impl Iterator<Item = &'a Element>) -> Vec<Step> {
    let list = [string(elem::LIST_TABLE, TABLE_NAME), string(elem::LIST_SET, name)];
    let mut steps = vec![step(format!("empty set {name}"), msg::DELSETELEM, 0, &list)];
    let elements: Vec<Attr> = elements.map(element).collect();
    steps.extend(elements.chunks(ELEMENTS_PER_MESSAGE).map(|chunk| {
        let mut attrs = list.to_vec();
        attrs.push(nest(elem::LIST_ELEMENTS, chunk));
        step(format!("add elements of set {name}"), msg::NEWSETELEM, NLM_F_CREATE, &attrs)
    }));
    steps
}

fn element(element: &Element) -> Attr {
    nest(
        rule::LIST_ELEM,
        &[
            nest(elem::KEY, &[bytes(data::VALUE, &key(element.address))]),
            comment(elem::USERDATA, &element.comment),
        ],
    )
}

/// Address and port as the rules' registers hold them.
fn key(address: SocketAddr) -> Vec<u8> {
    let mut key = octets(address.ip());
    key.extend(address.port().to_be_bytes());
    key.resize(key.len().next_multiple_of(WORD), 0);
    key
}

/// Reads what [`key`] writes.
pub(super) fn address(key: &[u8]) -> Option<Backend> {
    let split = key.len().checked_sub(WORD)?;
    let (ip, port) = key.split_at_checked(split)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
    };
    let port = port.get(..PORT_LEN)?.try_into().ok()?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_padded_to_whole_words() {
        assert_eq!(key("192.0.2.1:6443".parse().unwrap()), [192, 0, 2, 1, 0x19, 0x2b, 0, 0]);
        assert_eq!(key("[2001:db8::1]:443".parse().unwrap()).len(), 20);
    }

    proptest! {
        #[test]
        fn keys_read_back(ip: IpAddr, port: u16) {
            let backend = SocketAddr::new(ip, port);
            prop_assert_eq!(address(&key(backend)), Some(backend));
        }

        #[test]
        fn no_bytes_panic(input: Vec<u8>) {
            let _ = address(&input);
        }
    }
}
