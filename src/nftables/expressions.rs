//! [`Match`] and [`Action`] -> nf_tables expressions, in the order and with the registers that nft itself uses, so
//! that nft lists them the way they were meant. Pure.
//!
//! In: a match or an action. Out: the attributes that the kernel takes. Below them stand the single expressions that they are
//! made of.

use std::net::{IpAddr, SocketAddr};

use super::names::dead_name;
use super::table::{ANONYMOUS_MAP, Action, BalanceKey, CLIENT_HASH_SEED, Match};
use super::uapi::expr::*;
use super::uapi::{FAMILY_IPV4, FAMILY_IPV6, data, reg, rule};
use crate::model::address::Cidr;
use crate::model::types::Family;
use crate::netlink::message::{Attr, be32, bytes, nest, octets, string};

/// `IFNAMSIZ`: interface names are compared as 16 bytes.
const INTERFACE_NAME_LEN: usize = 16;
/// IPPROTO_TCP.
const TCP: u8 = 6;

/// Expressions of one match. A match on an address or port says first which protocol it means.
pub(super) fn matching(condition: Match) -> Vec<Attr> {
    match condition {
        Match::DestinationAddress(ip) => address(ip, Field::Destination, CMP_EQ),
        Match::SourceAddress(ip) => address(ip, Field::Source, CMP_EQ),
        Match::SourceAddressNot(ip) => address(ip, Field::Source, CMP_NEQ),
        Match::SourceWithin(cidr) => within(cidr),
        Match::Tcp => tcp(),
        Match::TcpDestinationPort(port) => {
            let mut out = tcp();
            // The destination port is bytes 2 and 3 of the TCP header (RFC 9293).
            out.push(payload(PAYLOAD_TRANSPORT_HEADER, 2, 2, reg::R1));
            out.push(compare(CMP_EQ, &port.to_be_bytes()));
            out
        }
        Match::TcpSourcePort(port) => {
            let mut out = tcp();
            out.push(payload(PAYLOAD_TRANSPORT_HEADER, 0, 2, reg::R1));
            out.push(compare(CMP_EQ, &port.to_be_bytes()));
            out
        }
        Match::TcpFlags(flags) => {
            let (mask, value, equal) = flags.mask_and_value();
            let mut out = tcp();
            out.push(payload(PAYLOAD_TRANSPORT_HEADER, 13, 1, reg::R1));
            out.push(bitwise(&[mask]));
            out.push(compare(if equal { CMP_EQ } else { CMP_NEQ }, &[value]));
            out
        }
        Match::TcpWithoutOptions => {
            let mut out = tcp();
            // The upper half of byte 12 counts the header's words of 4 bytes (RFC 9293).
            out.push(payload(PAYLOAD_TRANSPORT_HEADER, 12, 1, reg::R1));
            out.push(bitwise(&[0xf0]));
            out.push(compare(CMP_EQ, &[5 << 4]));
            out
        }
        Match::DestinationIsLocal => fib(FIB_DADDR, CMP_EQ),
        Match::SourceIsLocal => fib(FIB_SADDR, CMP_EQ),
        Match::SourceIsNotLocal => fib(FIB_SADDR, CMP_NEQ),
        Match::SourceNotOfOutgoingInterface => fib(FIB_SADDR | FIB_OIF, CMP_NEQ),
        Match::LeavesNode => {
            let mut name = [0; INTERFACE_NAME_LEN];
            name[..2].copy_from_slice(b"lo");
            vec![meta(META_OIFNAME), compare(CMP_NEQ, &name)]
        }
        Match::LeavesBy(name) => vec![meta(META_OIFNAME), compare(CMP_EQ, &name.bytes())],
        Match::FlowTranslated => any_bit(CT_STATUS, CT_STATUS_DNAT),
        Match::CtState(state) => any_bit(CT_STATE, state.bits()),
        Match::FlowDestinationAddress(ip) => flow((CT_DST_IP, CT_DST_IP6), CT_ORIGINAL, ip),
        Match::FlowDestinationPort(port) => {
            vec![conntrack(CT_PROTO_DST, Some(CT_ORIGINAL)), compare(CMP_EQ, &port.to_be_bytes())]
        }
        Match::FlowRepliesFromDead(vip) => {
            // The port stands in the register behind the address.
            let (address, next) = match Family::of(vip.ip()) {
                Family::V4 => (CT_SRC_IP, reg::R1_SECOND_WORD),
                Family::V6 => (CT_SRC_IP6, reg::R2),
            };
            vec![
                conntrack(address, Some(CT_REPLY)),
                conntrack_to(next, CT_PROTO_SRC, Some(CT_REPLY)),
                expression("lookup", &[string(LOOKUP_SET, &dead_name(vip)), be32(LOOKUP_SREG, reg::R1)]),
            ]
        }
        Match::FlowDirectionOriginal => {
            vec![conntrack(CT_DIRECTION_KEY, None), compare(CMP_EQ, &[CT_ORIGINAL])]
        }
    }
}

/// Expressions of an action. `map_id` names the anonymous map of [`Action::Balance`] within the transaction.
pub(super) fn acting(action: &Action, map_id: u32) -> Vec<Attr> {
    match action {
        Action::Goto(chain) => vec![verdict(data::GOTO, Some(chain))],
        Action::Continue => Vec::new(),
        Action::Drop => vec![verdict(data::DROP, None)],
        Action::Return => vec![verdict(data::RETURN, None)],
        Action::Masquerade => vec![expression("masq", &[])],
        Action::RejectWithReset => {
            vec![expression("reject", &[be32(REJECT_TYPE, REJECT_TCP_RST), bytes(REJECT_CODE, &[0])])]
        }
        Action::Notrack => vec![expression("notrack", &[])],
        Action::Dnat(to) => {
            let mut attrs = nat(NAT_DNAT, to.ip());
            attrs.push(be32(NAT_REG_PROTO_MIN, reg::R2));
            attrs.push(be32(NAT_FLAGS, NAT_PROTO_SPECIFIED));
            vec![
                immediate(reg::R1, &octets(to.ip())),
                immediate(reg::R2, &SocketAddr::port(to).to_be_bytes()),
                expression("nat", &attrs),
            ]
        }
        Action::Snat(to) => {
            vec![immediate(reg::R1, &octets(*to)), expression("nat", &nat(NAT_SNAT, *to))]
        }
        Action::Balance { by, targets } => {
            let mut out = choose(*by, u32::try_from(targets.len()).unwrap_or(u32::MAX));
            out.push(expression(
                "lookup",
                &[
                    be32(LOOKUP_SREG, reg::R1),
                    be32(LOOKUP_DREG, reg::VERDICT),
                    string(LOOKUP_SET, ANONYMOUS_MAP),
                    be32(LOOKUP_SET_ID, map_id),
                ],
            ));
            out
        }
    }
}

/// Reference to a named counter.
pub(super) fn counter(name: &str) -> Attr {
    expression("objref", &[be32(OBJREF_TYPE, super::uapi::object::TYPE_COUNTER), string(OBJREF_NAME, name)])
}

/// `NFTA_DATA_VERDICT` of a goto, for set elements.
pub(super) fn goto_data(kind: u16, chain: &str) -> Attr {
    verdict_data(kind, data::GOTO, Some(chain))
}

#[derive(Clone, Copy)]
enum Field {
    Source,
    Destination,
}

/// Offset of an address in the IPv4 (RFC 791) or IPv6 (RFC 8200) header.
fn offset(family: Family, field: Field) -> u32 {
    match (family, field) {
        (Family::V4, Field::Source) => 12,
        (Family::V4, Field::Destination) => 16,
        (Family::V6, Field::Source) => 8,
        (Family::V6, Field::Destination) => 24,
    }
}

fn address(ip: IpAddr, field: Field, operator: u32) -> Vec<Attr> {
    let octets = octets(ip);
    let family = Family::of(ip);
    let mut out = network_protocol(family);
    out.push(payload(PAYLOAD_NETWORK_HEADER, offset(family, field), octets.len(), reg::R1));
    out.push(compare(operator, &octets));
    out
}

/// A prefix of whole octets is compared octet by octet, any other with a mask, as nft does.
fn within(cidr: Cidr) -> Vec<Attr> {
    let octets = octets(cidr.address());
    let start = offset(cidr.family(), Field::Source);
    let mut out = network_protocol(cidr.family());
    let (whole, rest) = (usize::from(cidr.prefix_len() / 8), cidr.prefix_len() % 8);
    if rest == 0 {
        out.push(payload(PAYLOAD_NETWORK_HEADER, start, whole, reg::R1));
        out.push(compare(CMP_EQ, &octets[..whole]));
    } else {
        let mut mask = vec![0; octets.len()];
        mask[..whole].fill(0xff);
        mask[whole] = 0xff << (8 - rest);
        out.push(payload(PAYLOAD_NETWORK_HEADER, start, octets.len(), reg::R1));
        out.push(bitwise(&mask));
        out.push(compare(CMP_EQ, &octets));
    }
    out
}

fn choose(by: BalanceKey, modulus: u32) -> Vec<Attr> {
    match by {
        BalanceKey::Random => vec![expression(
            "numgen",
            &[
                be32(NUMGEN_DREG, reg::R1),
                be32(NUMGEN_MODULUS, modulus),
                be32(NUMGEN_TYPE, NUMGEN_RANDOM),
                be32(NUMGEN_OFFSET, 0),
            ],
        )],
        BalanceKey::ClientAddress(family) => {
            let len = address_len(family);
            let mut out = network_protocol(family);
            out.push(payload(PAYLOAD_NETWORK_HEADER, offset(family, Field::Source), len, reg::R2));
            out.push(expression(
                "hash",
                &[
                    be32(HASH_SREG, reg::R2),
                    be32(HASH_DREG, reg::R1),
                    be32(HASH_LEN, u32::try_from(len).unwrap_or(0)),
                    be32(HASH_MODULUS, modulus),
                    be32(HASH_SEED, CLIENT_HASH_SEED),
                    be32(HASH_OFFSET, 0),
                    be32(HASH_TYPE, HASH_JENKINS),
                ],
            ));
            out
        }
    }
}

fn network_protocol(family: Family) -> Vec<Attr> {
    vec![meta(META_NFPROTO), compare(CMP_EQ, &[kernel_family(family)])]
}

fn tcp() -> Vec<Attr> {
    vec![meta(META_L4PROTO), compare(CMP_EQ, &[TCP])]
}

fn fib(flags: u32, operator: u32) -> Vec<Attr> {
    let lookup = expression(
        "fib",
        &[be32(FIB_DREG, reg::R1), be32(FIB_RESULT, FIB_RESULT_ADDRTYPE), be32(FIB_FLAGS, flags)],
    );
    vec![lookup, compare(operator, &FIB_TYPE_LOCAL.to_ne_bytes())]
}

fn nat(kind: u32, to: IpAddr) -> Vec<Attr> {
    vec![
        be32(NAT_TYPE, kind),
        be32(NAT_FAMILY, u32::from(kernel_family(Family::of(to)))),
        be32(NAT_REG_ADDR_MIN, reg::R1),
    ]
}

fn any_bit(key: u32, bits: u32) -> Vec<Attr> {
    vec![conntrack(key, None), bitwise(&bits.to_ne_bytes()), compare(CMP_NEQ, &0u32.to_ne_bytes())]
}

/// An address of the flow's tuple in one direction; `keys` are those of IPv4 and IPv6.
fn flow(keys: (u32, u32), direction: u8, ip: IpAddr) -> Vec<Attr> {
    let key = if ip.is_ipv4() { keys.0 } else { keys.1 };
    vec![conntrack(key, Some(direction)), compare(CMP_EQ, &octets(ip))]
}

fn meta(key: u32) -> Attr {
    expression("meta", &[be32(META_KEY, key), be32(META_DREG, reg::R1)])
}

fn conntrack(key: u32, direction: Option<u8>) -> Attr {
    conntrack_to(reg::R1, key, direction)
}

fn conntrack_to(register: u32, key: u32, direction: Option<u8>) -> Attr {
    let mut attrs = vec![be32(CT_KEY, key), be32(CT_DREG, register)];
    attrs.extend(direction.map(|d| bytes(CT_DIRECTION, &[d])));
    expression("ct", &attrs)
}

fn payload(base: u32, offset: u32, len: usize, register: u32) -> Attr {
    expression(
        "payload",
        &[
            be32(PAYLOAD_DREG, register),
            be32(PAYLOAD_BASE, base),
            be32(PAYLOAD_OFFSET, offset),
            be32(PAYLOAD_LEN, u32::try_from(len).unwrap_or(0)),
        ],
    )
}

fn bitwise(mask: &[u8]) -> Attr {
    let zero = vec![0; mask.len()];
    expression(
        "bitwise",
        &[
            be32(BITWISE_SREG, reg::R1),
            be32(BITWISE_DREG, reg::R1),
            be32(BITWISE_LEN, u32::try_from(mask.len()).unwrap_or(0)),
            nest(BITWISE_MASK, &[bytes(data::VALUE, mask)]),
            nest(BITWISE_XOR, &[bytes(data::VALUE, &zero)]),
        ],
    )
}

fn compare(operator: u32, value: &[u8]) -> Attr {
    expression(
        "cmp",
        &[be32(CMP_SREG, reg::R1), be32(CMP_OP, operator), nest(CMP_DATA, &[bytes(data::VALUE, value)])],
    )
}

fn immediate(register: u32, value: &[u8]) -> Attr {
    expression(
        "immediate",
        &[be32(IMMEDIATE_DREG, register), nest(IMMEDIATE_DATA, &[bytes(data::VALUE, value)])],
    )
}

fn verdict(code: i32, chain: Option<&str>) -> Attr {
    expression("immediate", &[be32(IMMEDIATE_DREG, reg::VERDICT), verdict_data(IMMEDIATE_DATA, code, chain)])
}

fn verdict_data(kind: u16, code: i32, chain: Option<&str>) -> Attr {
    let mut attrs = vec![bytes(data::VERDICT_CODE, &code.to_be_bytes())];
    attrs.extend(chain.map(|c| string(data::VERDICT_CHAIN, c)));
    nest(kind, &[nest(data::VERDICT, &attrs)])
}

fn expression(name: &str, attrs: &[Attr]) -> Attr {
    nest(rule::LIST_ELEM, &[string(rule::EXPR_NAME, name), nest(rule::EXPR_DATA, attrs)])
}

pub(super) fn address_len(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

fn kernel_family(family: Family) -> u8 {
    match family {
        Family::V4 => FAMILY_IPV4,
        Family::V6 => FAMILY_IPV6,
    }
}
