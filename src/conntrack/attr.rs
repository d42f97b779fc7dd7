//! Netlink attributes as ctnetlink, sock_diag and rtnetlink have them. Pure.
//!
//! In: values, or the bytes of a message. Out: attributes in wire form, or the value of one. No length is trusted.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLA_HEADER_SIZE, NlaBuffer, NlasIterator};

use crate::netlink::netlink::Malformed;

/// Address families, in `include/linux/socket.h`.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

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

/// A number in the byte order of this machine.
pub(crate) fn native32(kind: u16, value: u32) -> Attr {
    bytes(kind, &value.to_ne_bytes())
}

/// The family of an address.
pub(crate) fn family(of: IpAddr) -> u8 {
    if of.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address under the kind that its family has.
pub(crate) fn address(kind_v4: u16, kind_v6: u16, value: IpAddr) -> Attr {
    match value {
        IpAddr::V4(ip) => bytes(kind_v4, &ip.octets()),
        IpAddr::V6(ip) => bytes(kind_v6, &ip.octets()),
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

/// The value of the first attribute of this kind.
pub(crate) fn find(attrs: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attr in NlasIterator::new(attrs) {
        let attr: NlaBuffer<&[u8]> = attr.map_err(|error| Malformed(error.to_string()))?;
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
    fn what_is_written_is_found_again() {
        let written = emit(&[be16(3, 443), nest(4, &[byte(1, 6)]), native32(5, 7)]);
        assert_eq!(fixed(&written, 3).unwrap(), Some([1, 187]));
        assert_eq!(fixed(find(&written, 4).unwrap().unwrap(), 1).unwrap(), Some([6]));
        assert_eq!(find(&written, 6).unwrap(), None);
        assert!(fixed::<2>(&written, 5).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_bytes(input: Vec<u8>, kind: u16) {
            let _ = find(&input, kind);
            let _ = fixed::<4>(&input, kind);
            let _ = find_address(&input, kind, kind.wrapping_add(1));
        }
    }
}
