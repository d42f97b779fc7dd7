//! The wire format of netlink, once for all that speaks it: messages in a datagram, and attributes in a message. Pure.
//!
//! In: values to write, or the bytes that the kernel sent. Out: bytes, or the messages and attributes in them. No length that
//! comes from outside is trusted: what does not keep to the format is [`Malformed`], never a panic. The kernel's side is
//! `include/uapi/linux/netlink.h`.

use std::net::IpAddr;

use netlink_packet_core::{
    DefaultNla, Emitable, ErrorBuffer, NLA_F_NESTED, NLA_HEADER_SIZE, NetlinkBuffer, NetlinkHeader,
    NlaBuffer, NlasIterator,
};

/// Address families, in `include/linux/socket.h`.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
/// `sizeof(struct nfgenmsg)`: what every message of a netfilter subsystem has ahead of its attributes.
pub(crate) const NFGENMSG_LEN: usize = 4;
/// Messages in a datagram are aligned to this.
const ALIGN: usize = 4;

/// A message that does not keep to the netlink format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub(crate) String);

/// Appends one message: `struct nlmsghdr`, and a body that comes in parts.
pub(crate) fn write(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[&[u8]]) {
    let mut header = NetlinkHeader::default();
    let len = header.buffer_len() + body.iter().map(|part| part.len()).sum::<usize>();
    header.length = u32::try_from(len).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    let start = out.len();
    out.resize(start + header.buffer_len(), 0);
    header.emit(&mut out[start..]);
    body.iter().for_each(|part| out.extend_from_slice(part));
}

/// The messages of one datagram, up to the first that is malformed.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = match NetlinkBuffer::new_checked((!rest.is_empty()).then_some(rest)?) {
            Ok(message) => message,
            Err(error) => {
                rest = &[];
                return Some(Err(Malformed(error.to_string())));
            }
        };
        let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
        rest = len.checked_next_multiple_of(ALIGN).and_then(|len| rest.get(len..)).unwrap_or_default();
        Some(Ok(message))
    })
}

/// The errno in the payload of an `NLMSG_ERROR`. `None`: the request succeeded.
pub(crate) fn errno(payload: &[u8]) -> Result<Option<i32>, Malformed> {
    let error = ErrorBuffer::new_checked(payload).map_err(|error| Malformed(error.to_string()))?;
    Ok(error.code().map(|code| code.get().saturating_neg()))
}

/// The attributes of a message of a netfilter subsystem.
pub(crate) fn netfilter_attributes(payload: &[u8]) -> Result<&[u8], Malformed> {
    payload.get(NFGENMSG_LEN..).ok_or_else(|| Malformed("no room for the family".to_owned()))
}

/// An attribute that is ready to be written.
pub(crate) type Attr = DefaultNla;

pub(crate) fn bytes(kind: u16, value: &[u8]) -> Attr {
    DefaultNla::new(kind, value.to_vec())
}

pub(crate) fn byte(kind: u16, value: u8) -> Attr {
    bytes(kind, &[value])
}

pub(crate) fn be16(kind: u16, value: u16) -> Attr {
    bytes(kind, &value.to_be_bytes())
}

pub(crate) fn be32(kind: u16, value: u32) -> Attr {
    bytes(kind, &value.to_be_bytes())
}

pub(crate) fn be64(kind: u16, value: u64) -> Attr {
    bytes(kind, &value.to_be_bytes())
}

/// A number in the byte order of this machine.
pub(crate) fn native32(kind: u16, value: u32) -> Attr {
    bytes(kind, &value.to_ne_bytes())
}

/// Text that ends in NUL.
pub(crate) fn string(kind: u16, value: &str) -> Attr {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

/// The family of an address.
pub(crate) fn family(of: IpAddr) -> u8 {
    if of.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address under the kind that its family has.
pub(crate) fn address(kind_v4: u16, kind_v6: u16, value: IpAddr) -> Attr {
    bytes(if value.is_ipv4() { kind_v4 } else { kind_v6 }, &octets(value))
}

/// An address in network byte order.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn nest(kind: u16, attrs: &[Attr]) -> Attr {
    DefaultNla::new(kind | NLA_F_NESTED, emit(attrs))
}

/// The wire form of attributes one after the other.
pub(crate) fn emit(attrs: &[Attr]) -> Vec<u8> {
    let mut buffer = vec![0; attrs.buffer_len()];
    attrs.emit(&mut buffer);
    buffer
}

/// The attributes that stand one after the other here.
pub(crate) fn attributes(attrs: &[u8]) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, Malformed>> {
    NlasIterator::new(attrs).map(|attr| attr.map_err(|error| Malformed(error.to_string())))
}

/// The value of the first attribute of this kind.
pub(crate) fn find(attrs: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attr in attributes(attrs) {
        let attr = attr?;
        if attr.kind() == kind {
            let end = usize::from(attr.length());
            return Ok(attr.into_inner().get(NLA_HEADER_SIZE..end));
        }
    }
    Ok(None)
}

/// The value of an attribute that has exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(attrs: &[u8], kind: u16) -> Result<Option<[u8; N]>, Malformed> {
    let Some(value) = find(attrs, kind)? else { return Ok(None) };
    let value = value.try_into().map_err(|_| Malformed(format!("attribute {kind} has a wrong length")))?;
    Ok(Some(value))
}

/// A number of four bytes in network byte order. `None` also where the value has another length.
pub(crate) fn number(attrs: &[u8], kind: u16) -> Result<Option<u32>, Malformed> {
    Ok(find(attrs, kind)?.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes))
}

/// The same of eight bytes.
pub(crate) fn long_number(attrs: &[u8], kind: u16) -> Result<Option<u64>, Malformed> {
    Ok(find(attrs, kind)?.and_then(|value| value.try_into().ok()).map(u64::from_be_bytes))
}

/// Text up to its NUL. An attribute that must be there.
pub(crate) fn text(attrs: &[u8], kind: u16) -> Result<String, Malformed> {
    let value = find(attrs, kind)?.ok_or_else(|| Malformed(format!("attribute {kind} is missing")))?;
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// An IPv4 address of the first kind or an IPv6 address of the second.
pub(crate) fn find_address(attrs: &[u8], kind_v4: u16, kind_v6: u16) -> Result<Option<IpAddr>, Malformed> {
    // rtnetlink has one kind for both families, which the length tells apart.
    for kind in [kind_v4, kind_v6] {
        let Some(value) = find(attrs, kind)? else { continue };
        return match ip(value) {
            Some(ip) => Ok(Some(ip)),
            None => Err(Malformed(format!("attribute {kind} is no address"))),
        };
    }
    Ok(None)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn written_attributes_are_found_again() {
        let written = emit(&[be16(3, 443), nest(4, &[byte(1, 6)]), native32(5, 7)]);
        assert_eq!(fixed(&written, 3).unwrap(), Some([1, 187]));
        assert_eq!(fixed(find(&written, 4).unwrap().unwrap(), 1).unwrap(), Some([6]));
        assert_eq!(find(&written, 6).unwrap(), None);
        assert!(fixed::<2>(&written, 5).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_attribute_bytes_do_not_panic(input: Vec<u8>, kind: u16) {
            let _ = find(&input, kind);
            let _ = fixed::<4>(&input, kind);
            let _ = find_address(&input, kind, kind.wrapping_add(1));
        }
    }
}
