//! Single nf_tables expressions, each as the attribute that the kernel takes. Pure.

use std::net::IpAddr;

use super::attr::{Attr, be32, bytes, nest, string};
use super::kernel::expr::*;
use super::kernel::{FAMILY_IPV4, FAMILY_IPV6, data, reg, rule};
use crate::model::types::Family;

pub(super) fn meta(key: u32) -> Attr {
    expression("meta", &[be32(META_KEY, key), be32(META_DREG, reg::R1)])
}

pub(super) fn conntrack(key: u32, direction: Option<u8>) -> Attr {
    conntrack_to(reg::R1, key, direction)
}

pub(super) fn conntrack_to(register: u32, key: u32, direction: Option<u8>) -> Attr {
    let mut attrs = vec![be32(CT_KEY, key), be32(CT_DREG, register)];
    attrs.extend(direction.map(|d| bytes(CT_DIRECTION, &[d])));
    expression("ct", &attrs)
}

pub(super) fn payload(base: u32, offset: u32, len: usize, register: u32) -> Attr {
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

pub(super) fn bitwise(mask: &[u8]) -> Attr {
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

pub(super) fn compare(operator: u32, value: &[u8]) -> Attr {
    expression(
        "cmp",
        &[be32(CMP_SREG, reg::R1), be32(CMP_OP, operator), nest(CMP_DATA, &[bytes(data::VALUE, value)])],
    )
}

pub(super) fn immediate(register: u32, value: &[u8]) -> Attr {
    expression(
        "immediate",
        &[be32(IMMEDIATE_DREG, register), nest(IMMEDIATE_DATA, &[bytes(data::VALUE, value)])],
    )
}

pub(super) fn verdict(code: i32, chain: Option<&str>) -> Attr {
    expression("immediate", &[be32(IMMEDIATE_DREG, reg::VERDICT), verdict_data(IMMEDIATE_DATA, code, chain)])
}

pub(super) fn verdict_data(kind: u16, code: i32, chain: Option<&str>) -> Attr {
    let mut attrs = vec![bytes(data::VERDICT_CODE, &code.to_be_bytes())];
    attrs.extend(chain.map(|c| string(data::VERDICT_CHAIN, c)));
    nest(kind, &[nest(data::VERDICT, &attrs)])
}

pub(super) fn expression(name: &str, attrs: &[Attr]) -> Attr {
    nest(rule::LIST_ELEM, &[string(rule::EXPR_NAME, name), nest(rule::EXPR_DATA, attrs)])
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn address_len(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

pub(super) fn kernel_family(family: Family) -> u8 {
    match family {
        Family::V4 => FAMILY_IPV4,
        Family::V6 => FAMILY_IPV6,
    }
}
