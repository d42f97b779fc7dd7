//! What the kernel says on an nf_tables socket: dumps, acknowledgements and errors. Pure.
//!
//! In: the bytes of one datagram. Out: [`Reply`]s; [`ObservedTable`], the table as it stands in the kernel; and a
//! [`Fingerprint`], by which a later dump shows whether it is unchanged. Nothing here trusts a length: a malformed message is
//! an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};

use super::expressions::address_len;
use super::names;
use super::table::{Set, TABLE_NAME, Table};
use super::uapi::{
    FAMILY_INET, SUBSYSTEM, chain, data, elem, flowtable, generation, msg, object, set, table, udata,
};
use crate::model::types::{Backend, Family};
use crate::netlink::message::{
    Malformed, NFGENMSG_LEN, attributes, errno, find, long_number, messages, netfilter_attributes, number,
    text,
};

/// Each field of a concatenation takes a multiple of this.
pub(super) const WORD: usize = 4;
const PORT_LEN: usize = 2;

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Sequence number of the request that this answers.
    pub sequence: u32,
    /// Objects changed while the kernel was listing them: the dump must be repeated.
    pub interrupted: bool,
    /// What it says.
    pub content: ReplyContent,
}

/// The content of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyContent {
    /// The end of a dump.
    Done,
    /// The request succeeded (`None`) or failed with this errno.
    Outcome(Option<i32>),
    /// The number of transactions in this namespace so far.
    Generation(u32),
    /// A table.
    Table {
        /// Its name.
        name: String,
        /// Its flags.
        flags: u32,
        /// The netlink port of the socket that it belongs to.
        owner: Option<u32>,
    },
    /// A chain of a table.
    Chain {
        /// The table's name.
        table: String,
        /// The chain.
        chain: ObservedChain,
    },
    /// A named object of a table.
    Object {
        /// The table's name.
        table: String,
        /// The object's name.
        name: String,
        /// Its value, if it is a counter.
        count: Option<Count>,
    },
    /// A set or map of a table.
    Set {
        /// The table's name.
        table: String,
        /// The set's name.
        name: String,
        /// Anonymous sets belong to a rule and go with it. Named ones have a shape.
        shape: Option<SetShape>,
    },
    /// Elements of a set.
    Elements {
        /// The table's name.
        table: String,
        /// The set's name.
        set: String,
        /// Their keys.
        keys: Vec<Vec<u8>>,
    },
    /// A flowtable of a table.
    Flowtable {
        /// The table's name.
        table: String,
    },
    /// Anything else.
    Other,
}

/// The value of a named counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets; in a nat chain, connections.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedChain {
    /// Its name.
    pub name: String,
    /// Type, hook number and priority, if it is a base chain.
    pub base: Option<(String, u32, i32)>,
}

/// `table inet apivip` as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Whether there is such a table.
    pub exists: bool,
    /// Its flags.
    pub flags: u32,
    /// The netlink port of the socket that it belongs to.
    pub owner: Option<u32>,
    /// Its chains in the order of their creation.
    pub chains: Vec<ObservedChain>,
    /// Its anonymous sets, which belong to rules.
    pub maps: Vec<String>,
    /// Its counters by name.
    pub counters: BTreeMap<String, Count>,
    /// Its sets of dead backends by name.
    pub sets: BTreeMap<String, SetShape>,
    /// What is in them.
    pub dead: BTreeSet<Backend>,
    /// Something in it that apivip never makes: another named set, a flowtable, an object that is no counter.
    pub foreign: bool,
}

impl ObservedTable {
    /// Takes one object of a dump in. Objects of other tables are ignored.
    pub fn add(&mut self, content: ReplyContent) {
        match content {
            ReplyContent::Table { name, flags, owner } if name == TABLE_NAME => {
                (self.exists, self.flags, self.owner) = (true, flags, owner);
            }
            ReplyContent::Chain { table, chain } if table == TABLE_NAME => self.chains.push(chain),
            ReplyContent::Object { table, name, count } if table == TABLE_NAME => match count {
                Some(count) => {
                    self.counters.insert(name, count);
                }
                None => self.foreign = true,
            },
            ReplyContent::Set { table, name, shape } if table == TABLE_NAME => match shape {
                None => self.maps.push(name),
                Some(shape) if names::dead(&name).is_some() => drop(self.sets.insert(name, shape)),
                Some(_) => self.foreign = true,
            },
            ReplyContent::Elements { table, set, keys }
                if table == TABLE_NAME && self.sets.contains_key(&set) =>
            {
                self.dead.extend(keys.iter().filter_map(|key| address_of(key)));
            }
            ReplyContent::Flowtable { table } if table == TABLE_NAME => self.foreign = true,
            _ => {}
        }
    }

    /// Whether the base chains are exactly those of `table`, in the same order and before all others.
    pub fn has_base_chains_of(&self, table: &Table) -> bool {
        let wanted = table.chains.iter().filter_map(|c| {
            c.hook.map(|h| (c.name.as_str(), Some((h.kind().to_owned(), h.number(), h.priority()))))
        });
        let count = wanted.clone().count();
        let found = self.chains.iter().take(count).map(|c| (c.name.as_str(), c.base.clone()));
        found.eq(wanted) && self.chains.iter().skip(count).all(|c| c.base.is_none())
    }

    /// Whether there is no set of this name yet, or one that can be filled as it is.
    pub(super) fn has_place_for(&self, set: &Set) -> bool {
        self.sets.get(&set.name).is_none_or(|shape| *shape == SetShape::of(set))
    }

    /// Names of the chains that are no base chains.
    pub fn regular_chains(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().filter(|c| c.base.is_none()).map(|c| c.name.as_str())
    }
}

/// The properties by which a set is one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetShape {
    /// `NFTA_SET_FLAGS`.
    pub flags: u32,
    /// nft's number for the type of its keys.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_len: u32,
    /// Milliseconds until an element expires.
    pub timeout: u64,
}

impl SetShape {
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

/// Reads all messages of one datagram.
pub fn parse(datagram: &[u8]) -> Result<Vec<Reply>, Malformed> {
    messages(datagram).map(|message| reply(&message?)).collect()
}

/// The attributes of an nf_tables message, if it is about our table: the first kind of attribute is the table's name in
/// messages of every type.
pub(super) fn belongs(payload: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((header, attrs)) = payload.split_at_checked(NFGENMSG_LEN) else {
        return Err(Malformed("no room for the family".to_owned()));
    };
    let ours = header[0] == FAMILY_INET
        && find(attrs, table::NAME)?
            .is_some_and(|name| name.strip_suffix(&[0]) == Some(TABLE_NAME.as_bytes()));
    Ok(ours.then_some(attrs))
}

fn reply(message: &NetlinkBuffer<&[u8]>) -> Result<Reply, Malformed> {
    let payload = message.payload();
    let content = match message.message_type() {
        NLMSG_DONE => ReplyContent::Done,
        NLMSG_ERROR => ReplyContent::Outcome(errno(payload)?),
        kind if kind >> 8 == SUBSYSTEM => object(kind & 0xff, netfilter_attributes(payload)?)?,
        _ => ReplyContent::Other,
    };
    Ok(Reply {
        sequence: message.sequence_number(),
        interrupted: message.flags() & NLM_F_DUMP_INTR != 0,
        content,
    })
}

fn object(kind: u16, attrs: &[u8]) -> Result<ReplyContent, Malformed> {
    Ok(match kind {
        msg::NEWGEN => ReplyContent::Generation(number(attrs, generation::ID)?.unwrap_or(0)),
        msg::NEWTABLE => ReplyContent::Table {
            name: text(attrs, table::NAME)?,
            flags: number(attrs, table::FLAGS)?.unwrap_or(0),
            owner: number(attrs, table::OWNER)?,
        },
        msg::NEWCHAIN => {
            ReplyContent::Chain { table: text(attrs, chain::TABLE)?, chain: observed_chain(attrs)? }
        }
        msg::NEWOBJ => ReplyContent::Object {
            table: text(attrs, object::TABLE)?,
            name: text(attrs, object::NAME)?,
            count: count(attrs)?,
        },
        msg::NEWSET => ReplyContent::Set {
            table: text(attrs, set::TABLE)?,
            name: text(attrs, set::NAME)?,
            shape: shape(attrs)?,
        },
        msg::NEWSETELEM => ReplyContent::Elements {
            table: text(attrs, elem::LIST_TABLE)?,
            set: text(attrs, elem::LIST_SET)?,
            keys: keys(attrs)?,
        },
        msg::NEWFLOWTABLE => ReplyContent::Flowtable { table: text(attrs, flowtable::TABLE)? },
        _ => ReplyContent::Other,
    })
}

/// `None`: it is anonymous.
fn shape(attrs: &[u8]) -> Result<Option<SetShape>, Malformed> {
    let flags = number(attrs, set::FLAGS)?.unwrap_or(0);
    if flags & set::FLAG_ANONYMOUS != 0 {
        return Ok(None);
    }
    let timeout = long_number(attrs, set::TIMEOUT)?.unwrap_or(0);
    let key_type = number(attrs, set::KEY_TYPE)?.unwrap_or(0);
    Ok(Some(SetShape { flags, key_type, key_len: number(attrs, set::KEY_LEN)?.unwrap_or(0), timeout }))
}

fn keys(attrs: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut keys = Vec::new();
    for element in attributes(find(attrs, elem::LIST_ELEMENTS)?.unwrap_or_default()) {
        if let Some(key) = find(element?.value(), elem::KEY)? {
            keys.extend(find(key, data::VALUE)?.map(<[u8]>::to_vec));
        }
    }
    Ok(keys)
}

/// Reads the key of an element: address and port as the rules' registers hold them.
pub(super) fn address_of(key: &[u8]) -> Option<Backend> {
    let split = key.len().checked_sub(WORD)?;
    let (ip, port) = key.split_at_checked(split)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
    };
    let port = port.get(..PORT_LEN)?.try_into().ok()?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn observed_chain(attrs: &[u8]) -> Result<ObservedChain, Malformed> {
    let base = match find(attrs, chain::HOOK)? {
        None => None,
        Some(hook) => Some((
            text(attrs, chain::TYPE)?,
            number(hook, chain::HOOK_HOOKNUM)?.unwrap_or(u32::MAX),
            number(hook, chain::HOOK_PRIORITY)?.unwrap_or(0).cast_signed(),
        )),
    };
    Ok(ObservedChain { name: text(attrs, chain::NAME)?, base })
}

fn count(attrs: &[u8]) -> Result<Option<Count>, Malformed> {
    if number(attrs, object::TYPE)? != Some(object::TYPE_COUNTER) {
        return Ok(None);
    }
    let values = find(attrs, object::DATA)?.unwrap_or_default();
    let value = |kind| long_number(values, kind).map(Option::unwrap_or_default);
    Ok(Some(Count { packets: value(object::COUNTER_PACKETS)?, bytes: value(object::COUNTER_BYTES)? }))
}

/// A digest of our table as the kernel lists it. Everything counts but the values of counters: names, order, expressions,
/// flags, the owner, the elements of maps, and the kernel's handles, so that what was replaced by its like is seen too.
/// Elements that expire are not asked for.
///
/// Two of the same table are equal; those of different ones, but for once in 2^64 times, are not.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    digest: DefaultHasher,
}

impl Fingerprint {
    /// Takes in a datagram that answers request `sequence`. Objects of other tables are left out.
    pub fn add(&mut self, datagram: &[u8], sequence: u32) -> Result<(), Malformed> {
        for message in messages(datagram) {
            let message = message?;
            let kind = message.message_type();
            if message.sequence_number() != sequence || kind >> 8 != SUBSYSTEM {
                continue;
            }
            let Some(attrs) = belongs(message.payload())? else { continue };
            kind.hash(&mut self.digest);
            for attr in attributes(attrs) {
                let attr = attr?;
                if !is_volatile(kind & 0xff, attr.kind()) {
                    (attr.kind(), attr.value()).hash(&mut self.digest);
                }
            }
        }
        Ok(())
    }

    /// The digest of all that was added.
    pub fn finish(&self) -> u64 {
        self.digest.finish()
    }
}

/// Attributes that packets and time change, and no program.
fn is_volatile(kind: u16, attribute: u16) -> bool {
    matches!(
        (kind, attribute),
        (msg::NEWOBJ, object::DATA) | (msg::NEWCHAIN, chain::COUNTERS) | (msg::NEWSET, set::COUNT)
    )
}

#[cfg(test)]
mod tests;
