//! [`Table`] -> nft syntax, written the way `nft list table` prints it. Pure.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::names::dead_name;
use super::table::{
    Action, BalanceKey, CLIENT_HASH_SEED, Chain, Counter, CtState, Hook, Match, Rule, Set, TABLE_NAME, Table,
    TcpFlags,
};
use crate::model::types::Family;

/// A script for `nft -f` that replaces the table, whether it exists or not, in one transaction.
pub fn script(table: &Table) -> String {
    format!("table inet {TABLE_NAME}\ndelete table inet {TABLE_NAME}\n{table}")
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE_NAME} {{\n\tcomment \"{}\"", self.comment)?;
        let mut separator = "";
        for counter in &self.counters {
            write!(f, "{separator}{counter}")?;
            separator = "\n";
        }
        for set in &self.sets {
            write!(f, "{separator}{set}")?;
            separator = "\n";
        }
        for chain in &self.chains {
            write!(f, "{separator}{chain}")?;
            separator = "\n";
        }
        writeln!(f, "}}")
    }
}

impl Display for Counter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tcounter {} {{\n\t\tcomment \"{}\"", self.name, self.comment)?;
        writeln!(f, "\t\tpackets 0 bytes 0\n\t}}")
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        writeln!(f, "\tset {} {{\n\t\ttype {address} . inet_service", self.name)?;
        writeln!(f, "\t\ttimeout {}\n\t\tcomment \"{}\"", duration(self.timeout), self.comment)?;
        for (index, element) in self.elements.iter().enumerate() {
            f.write_str(if index == 0 { "\t\telements = { " } else { ",\n\t\t\t     " })?;
            let address = element.address;
            write!(f, "{} . {} comment \"{}\"", address.ip(), address.port(), element.comment)?;
        }
        f.write_str(if self.elements.is_empty() { "\t}\n" } else { " }\n\t}\n" })
    }
}

/// Whole seconds the way nft writes them.
fn duration(of: Duration) -> String {
    match of.as_secs() {
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{\n\t\tcomment \"{}\"", self.name, self.comment)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\ttype {} hook {hook}; policy accept;", hook.kind())?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // nft knows the name dstnat in prerouting only, and srcnat in postrouting.
        f.write_str(match self {
            Self::NatPrerouting => "prerouting priority dstnat - 5",
            Self::NatInput => "input priority 95",
            Self::NatOutput => "output priority -105",
            Self::NatPostrouting => "postrouting priority srcnat - 5",
            Self::KillPrerouting => "prerouting priority mangle",
            Self::KillOutput => "output priority mangle",
            Self::NotrackOutput => "output priority raw",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counter = self.counter.iter().map(|counter| format!("counter name \"{counter}\""));
        let action = Some(&self.action).filter(|action| **action != Action::Continue);
        let comment = self.comment.iter().map(|comment| format!("comment \"{comment}\""));
        let conditions = self.matches.iter().map(ToString::to_string);
        let words: Vec<String> =
            conditions.chain(counter).chain(action.map(ToString::to_string)).chain(comment).collect();
        f.write_str(&words.join(" "))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::DestinationAddress(ip) => write!(f, "{} daddr {ip}", ip_keyword(*ip)),
            Self::TcpDestinationPort(port) => write!(f, "tcp dport {port}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::SourceAddress(ip) => write!(f, "{} saddr {ip}", ip_keyword(*ip)),
            Self::SourceAddressNot(ip) => write!(f, "{} saddr != {ip}", ip_keyword(*ip)),
            Self::SourceWithin(cidr) if cidr.is_single() => {
                write!(f, "{} saddr {}", ip_keyword(cidr.address()), cidr.address())
            }
            Self::SourceWithin(cidr) => write!(f, "{} saddr {cidr}", ip_keyword(cidr.address())),
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::SourceIsLocal => f.write_str("fib saddr type local"),
            Self::SourceIsNotLocal => f.write_str("fib saddr type != local"),
            Self::SourceNotOfOutgoingInterface => f.write_str("fib saddr . oif type != local"),
            Self::LeavesNode => f.write_str("oifname != \"lo\""),
            Self::LeavesBy(name) => write!(f, "oifname \"{name}\""),
            Self::CtState(CtState::Invalid) => f.write_str("ct state invalid"),
            Self::CtState(CtState::EstablishedOrRelated) => f.write_str("ct state established,related"),
            Self::FlowTranslated => f.write_str("ct status dnat"),
            Self::FlowDestinationAddress(ip) => write!(f, "ct original {} daddr {ip}", ip_keyword(*ip)),
            Self::FlowDestinationPort(port) => write!(f, "ct original proto-dst {port}"),
            Self::FlowDirectionOriginal => f.write_str("ct direction original"),
            Self::FlowRepliesFromDead(vip) => {
                let ip = ip_keyword(vip.ip());
                write!(f, "ct reply {ip} saddr . ct reply proto-src @{}", dead_name(*vip))
            }
            Self::TcpSourcePort(port) => write!(f, "tcp sport {port}"),
            Self::TcpWithoutOptions => f.write_str("tcp doff 5"),
            Self::TcpFlags(TcpFlags::NeitherSynNorRst) => f.write_str("tcp flags ! syn,rst"),
            Self::TcpFlags(TcpFlags::BareSyn) => f.write_str("tcp flags syn / fin,syn,rst,ack"),
            Self::TcpFlags(TcpFlags::NotBareSyn) => f.write_str("tcp flags != syn / fin,syn,rst,ack"),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Dnat(to @ SocketAddr::V4(_)) => write!(f, "dnat ip to {to}"),
            Self::Dnat(to @ SocketAddr::V6(_)) => write!(f, "dnat ip6 to {to}"),
            Self::Snat(to) => write!(f, "snat {} to {to}", ip_keyword(*to)),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Drop => f.write_str("drop"),
            Self::RejectWithReset => f.write_str("reject with tcp reset"),
            Self::Notrack => f.write_str("notrack"),
            Self::Balance { by, targets } => {
                let modulus = targets.len();
                match by {
                    BalanceKey::Random => write!(f, "numgen random mod {modulus} vmap {{ ")?,
                    BalanceKey::ClientAddress(family) => write!(
                        f,
                        "jhash {} saddr mod {modulus} seed {CLIENT_HASH_SEED:#x} vmap {{ ",
                        family_keyword(*family)
                    )?,
                }
                for (index, target) in targets.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{index} comment \"{}\" : goto {}", target.comment, target.chain)?;
                }
                f.write_str(" }")
            }
        }
    }
}

fn ip_keyword(ip: IpAddr) -> &'static str {
    family_keyword(Family::of(ip))
}

fn family_keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
