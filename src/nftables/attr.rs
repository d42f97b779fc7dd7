//! Netlink attributes in the forms that nf_tables uses: numbers in network byte order, strings that end in NUL.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};

use super::kernel::udata;

/// An attribute that is ready to be written.
pub(super) type Attr = DefaultNla;

pub(super) fn be32(kind: u16, value: u32) -> Attr {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn be64(kind: u16, value: u64) -> Attr {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn bytes(kind: u16, value: &[u8]) -> Attr {
    DefaultNla::new(kind, value.to_vec())
}

pub(super) fn string(kind: u16, value: &str) -> Attr {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

pub(super) fn nest(kind: u16, attrs: &[Attr]) -> Attr {
    DefaultNla::new(kind | NLA_F_NESTED, emit(attrs))
}

/// The wire form of attributes one after the other.
pub(super) fn emit(attrs: &[Attr]) -> Vec<u8> {
    let mut buffer = vec![0; attrs.buffer_len()];
    attrs.emit(&mut buffer);
    buffer
}

/// One entry of nft's userdata. `value` is at most 255 bytes long, which [`super::table::COMMENT_MAX`] ensures.
pub(super) fn user_entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut entry = vec![kind, len];
    entry.extend_from_slice(&value[..usize::from(len)]);
    entry
}

/// Userdata that holds a comment.
pub(super) fn comment(kind: u16, text: &str) -> Attr {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, user_entry(udata::COMMENT, &value))
}
