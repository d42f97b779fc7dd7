//! What the kernel says on an nf_tables socket: dumps, acknowledgements and errors. Pure.
//!
//! In: the bytes of one datagram. Out: [`Reply`]s, and [`Observed`], the table as it stands in the kernel. Nothing
//! here trusts a length: a malformed message is an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{
    ErrorBuffer, NLA_HEADER_SIZE, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlaBuffer,
    NlasIterator,
};

use super::kernel::{
    FAMILY_INET, SUBSYSTEM, chain, data, elem, flowtable, generation, msg, object, set, table,
};
use super::names;
use super::sets::{self, Shape};
use super::table::{Set, TABLE_NAME, Table};
use crate::model::types::Backend;

/// `sizeof(struct nfgenmsg)`.
const GENERIC_HEADER_LEN: usize = 4;
/// Messages in a datagram are aligned to this.
const ALIGN: usize = 4;

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Sequence number of the request that this answers.
    pub sequence: u32,
    /// Objects changed while the kernel was listing them: the dump must be repeated.
    pub interrupted: bool,
    /// What it says.
    pub content: Content,
}

/// The content of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
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
        shape: Option<Shape>,
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
pub struct Observed {
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
    pub sets: BTreeMap<String, Shape>,
    /// What is in them.
    pub dead: BTreeSet<Backend>,
    /// Something in it that apivip never makes: another named set, a flowtable, an object that is no counter.
    pub foreign: bool,
}

impl Observed {
    /// Takes one object of a dump in. Objects of other tables are ignored.
    pub fn add(&mut self, content: Content) {
        match content {
            Content::Table { name, flags, owner } if name == TABLE_NAME => {
                (self.exists, self.flags, self.owner) = (true, flags, owner);
            }
            Content::Chain { table, chain } if table == TABLE_NAME => self.chains.push(chain),
            Content::Object { table, name, count } if table == TABLE_NAME => match count {
                Some(count) => {
                    self.counters.insert(name, count);
                }
                None => self.foreign = true,
            },
            Content::Set { table, name, shape } if table == TABLE_NAME => match shape {
                None => self.maps.push(name),
                Some(shape) if names::dead(&name).is_some() => drop(self.sets.insert(name, shape)),
                Some(_) => self.foreign = true,
            },
            Content::Elements { table, set, keys } if table == TABLE_NAME && self.sets.contains_key(&set) => {
                self.dead.extend(keys.iter().filter_map(|key| sets::address(key)));
            }
            Content::Flowtable { table } if table == TABLE_NAME => self.foreign = true,
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
        self.sets.get(&set.name).is_none_or(|shape| *shape == Shape::of(set))
    }

    /// Names of the chains that are no base chains.
    pub fn regular_chains(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().filter(|c| c.base.is_none()).map(|c| c.name.as_str())
    }
}

/// A message that does not keep to the netlink format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(String);

/// Reads all messages of one datagram.
pub fn parse(datagram: &[u8]) -> Result<Vec<Reply>, Malformed> {
    messages(datagram).map(|message| reply(&message?)).collect()
}

/// The messages of one datagram, up to the first that is malformed.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, Malformed>> {
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

/// The attributes of an nf_tables message, if it is about our table: the first kind of attribute is the table's name in
/// messages of every type.
pub(super) fn belongs(payload: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((header, attrs)) = payload.split_at_checked(GENERIC_HEADER_LEN) else {
        return Err(Malformed("no room for the family".to_owned()));
    };
    let ours = header[0] == FAMILY_INET
        && find(attrs, table::NAME)?
            .is_some_and(|name| name.strip_suffix(&[0]) == Some(TABLE_NAME.as_bytes()));
    Ok(ours.then_some(attrs))
}

/// The attributes that stand one after the other here.
pub(super) fn attributes(attrs: &[u8]) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, Malformed>> {
    NlasIterator::new(attrs).map(|attr| attr.map_err(|e| Malformed(e.to_string())))
}

fn reply(message: &NetlinkBuffer<&[u8]>) -> Result<Reply, Malformed> {
    let payload = message.payload();
    let content = match message.message_type() {
        NLMSG_DONE => Content::Done,
        NLMSG_ERROR => {
            let error = ErrorBuffer::new_checked(payload).map_err(|e| Malformed(e.to_string()))?;
            Content::Outcome(error.code().map(|code| code.get().saturating_neg()))
        }
        kind if kind >> 8 == SUBSYSTEM => {
            let attrs = payload
                .get(GENERIC_HEADER_LEN..)
                .ok_or_else(|| Malformed("no room for the family".to_owned()))?;
            object(kind & 0xff, attrs)?
        }
        _ => Content::Other,
    };
    Ok(Reply {
        sequence: message.sequence_number(),
        interrupted: message.flags() & NLM_F_DUMP_INTR != 0,
        content,
    })
}

fn object(kind: u16, attrs: &[u8]) -> Result<Content, Malformed> {
    Ok(match kind {
        msg::NEWGEN => Content::Generation(number(attrs, generation::ID)?.unwrap_or(0)),
        msg::NEWTABLE => Content::Table {
            name: text(attrs, table::NAME)?,
            flags: number(attrs, table::FLAGS)?.unwrap_or(0),
            owner: number(attrs, table::OWNER)?,
        },
        msg::NEWCHAIN => Content::Chain { table: text(attrs, chain::TABLE)?, chain: observed_chain(attrs)? },
        msg::NEWOBJ => Content::Object {
            table: text(attrs, object::TABLE)?,
            name: text(attrs, object::NAME)?,
            count: count(attrs)?,
        },
        msg::NEWSET => Content::Set {
            table: text(attrs, set::TABLE)?,
            name: text(attrs, set::NAME)?,
            shape: shape(attrs)?,
        },
        msg::NEWSETELEM => Content::Elements {
            table: text(attrs, elem::LIST_TABLE)?,
            set: text(attrs, elem::LIST_SET)?,
            keys: keys(attrs)?,
        },
        msg::NEWFLOWTABLE => Content::Flowtable { table: text(attrs, flowtable::TABLE)? },
        _ => Content::Other,
    })
}

/// `None`: it is anonymous.
fn shape(attrs: &[u8]) -> Result<Option<Shape>, Malformed> {
    let flags = number(attrs, set::FLAGS)?.unwrap_or(0);
    if flags & set::FLAG_ANONYMOUS != 0 {
        return Ok(None);
    }
    let timeout = find(attrs, set::TIMEOUT)?.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
    let key_type = number(attrs, set::KEY_TYPE)?.unwrap_or(0);
    Ok(Some(Shape { flags, key_type, key_len: number(attrs, set::KEY_LEN)?.unwrap_or(0), timeout }))
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
    let value = |kind| -> Result<u64, Malformed> {
        Ok(find(values, kind)?.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes))
    };
    Ok(Some(Count { packets: value(object::COUNTER_PACKETS)?, bytes: value(object::COUNTER_BYTES)? }))
}

/// The value of the first attribute of this kind.
pub(super) fn find(attrs: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attr in attributes(attrs) {
        let attr = attr?;
        if attr.kind() == kind {
            let end = usize::from(attr.length());
            return Ok(attr.into_inner().get(NLA_HEADER_SIZE..end));
        }
    }
    Ok(None)
}

pub(super) fn number(attrs: &[u8], kind: u16) -> Result<Option<u32>, Malformed> {
    Ok(find(attrs, kind)?.and_then(|v| v.try_into().ok()).map(u32::from_be_bytes))
}

pub(super) fn text(attrs: &[u8], kind: u16) -> Result<String, Malformed> {
    let value = find(attrs, kind)?.ok_or_else(|| Malformed(format!("attribute {kind} is missing")))?;
    let value = value.split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests;
