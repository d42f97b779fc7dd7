//! Questions to nf_tables, as netlink messages. Pure.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};

use super::attr::{Attr, emit, string};
use super::kernel::{FAMILY_ANY, FAMILY_INET, SUBSYSTEM, elem, msg};
use super::table::TABLE_NAME;
use super::wire::push;

/// A request to dump all objects of one kind, of our table where the kernel can filter.
pub fn dump(kind: u16, table_attribute: Option<u16>, sequence: u32) -> Vec<u8> {
    let attrs: Vec<Attr> = table_attribute.map(|a| string(a, TABLE_NAME)).into_iter().collect();
    request(kind, NLM_F_DUMP, sequence, &attrs)
}

/// A request to dump all objects of one kind, of every table of every family.
pub fn dump_all(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, (SUBSYSTEM << 8) | kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, FAMILY_ANY, 0, &[]);
    bytes
}

/// A request to dump the elements of one set of our table.
pub fn elements(set: &str, sequence: u32) -> Vec<u8> {
    let attrs = [string(elem::LIST_TABLE, TABLE_NAME), string(elem::LIST_SET, set)];
    request(msg::GETSETELEM, NLM_F_DUMP, sequence, &attrs)
}

/// A request for the generation of the ruleset: the number of transactions in this namespace so far.
pub fn generation(sequence: u32) -> Vec<u8> {
    request(msg::GETGEN, 0, sequence, &[])
}

fn request(kind: u16, flags: u16, sequence: u32, attrs: &[Attr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = (SUBSYSTEM << 8) | kind;
    push(&mut bytes, kind, NLM_F_REQUEST | flags, sequence, FAMILY_INET, 0, &emit(attrs));
    bytes
}
