//! What is in nf_tables altogether, whosever it is: tables, base chains, flowtables. Reads only.

use std::io;

use super::decode::ReplyContent;
use super::encode;
use super::socket::{NftError, NftSocket};
use super::uapi::{SUBSYSTEM, chain, flowtable, msg, table};
use crate::netlink::message::{Malformed, NFGENMSG_LEN, find, messages, number, text};

/// `NF_DROP`, as a chain's policy.
const DROP: u32 = 0;
/// `NFTA_FLOWTABLE_NAME` and `NFTA_FLOWTABLE_FLAGS`; `NFT_FLOWTABLE_HW_OFFLOAD`.
const FLOWTABLE_NAME: u16 = 2;
const FLOWTABLE_FLAGS: u16 = 7;
const HARDWARE: u32 = 1;

/// A table of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenTable {
    /// `ip`, `ip6`, `inet`, `arp`, `bridge` or `netdev`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// The netlink port of the socket that it belongs to.
    pub owner: Option<u32>,
    /// Whether it outlives its owner.
    pub persists: bool,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenChain {
    /// The family of its table.
    pub family: &'static str,
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it is called from, if it is a base chain.
    pub base: Option<SeenBase>,
}

/// What a base chain says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenBase {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `enum nf_inet_hooks`.
    pub hook: u32,
    /// Lower runs earlier.
    pub priority: i32,
    /// Packets that no rule decides about are dropped.
    pub drops: bool,
}

/// A flowtable: flows in it leave out the hooks of netfilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenFlowtable {
    /// FAMILY TABLE NAME.
    pub name: String,
    /// The network card forwards them.
    pub hardware: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesetInventory {
    /// Every table.
    pub tables: Vec<SeenTable>,
    /// Every chain.
    pub chains: Vec<SeenChain>,
    /// Every flowtable.
    pub flowtables: Vec<SeenFlowtable>,
}

impl NftSocket {
    /// Lists what is there. It may be of several moments, where others change it meanwhile.
    pub fn inventory(&mut self) -> Result<RulesetInventory, NftError> {
        let mut survey = RulesetInventory::default();
        self.list_all(msg::GETTABLE, |family, attrs| {
            survey.tables.push(SeenTable {
                family,
                name: text(attrs, table::NAME)?,
                owner: number(attrs, table::OWNER)?,
                persists: number(attrs, table::FLAGS)?.unwrap_or(0) & table::FLAG_PERSIST != 0,
            });
            Ok(())
        })?;
        self.list_all(msg::GETCHAIN, |family, attrs| {
            survey.chains.push(SeenChain {
                family,
                table: text(attrs, chain::TABLE)?,
                name: text(attrs, chain::NAME)?,
                base: base(attrs)?,
            });
            Ok(())
        })?;
        self.list_all(msg::GETFLOWTABLE, |family, attrs| {
            let (table, name) = (text(attrs, flowtable::TABLE)?, text(attrs, FLOWTABLE_NAME)?);
            survey.flowtables.push(SeenFlowtable {
                name: format!("{family} {table} {name}"),
                hardware: number(attrs, FLOWTABLE_FLAGS)?.unwrap_or(0) & HARDWARE != 0,
            });
            Ok(())
        })?;
        Ok(survey)
    }

    fn list_all(
        &mut self,
        kind: u16,
        mut take: impl FnMut(&'static str, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        let sequence = self.next_sequence();
        self.send(&encode::dump_all_request(kind, sequence))?;
        loop {
            let (datagram, replies) = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                let ours = message.sequence_number() == sequence && message.message_type() >> 8 == SUBSYSTEM;
                let Some((header, attrs)) = message.payload().split_at_checked(NFGENMSG_LEN).filter(|_| ours)
                else {
                    continue;
                };
                take(family(header[0]), attrs)?;
            }
            for reply in replies.into_iter().filter(|reply| reply.sequence == sequence) {
                match reply.content {
                    ReplyContent::Done => return Ok(()),
                    ReplyContent::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        // The kernel is too old for this kind of object.
                        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
                            && kind == msg::GETFLOWTABLE
                        {
                            return Ok(());
                        }
                        return Err(NftError::Refused { step: "list what there is".to_owned(), source });
                    }
                    _ => {}
                }
            }
        }
    }
}

fn base(attrs: &[u8]) -> Result<Option<SeenBase>, Malformed> {
    let Some(hook) = find(attrs, chain::HOOK)? else { return Ok(None) };
    Ok(Some(SeenBase {
        kind: text(attrs, chain::TYPE)?,
        hook: number(hook, chain::HOOK_HOOKNUM)?.unwrap_or(u32::MAX),
        priority: number(hook, chain::HOOK_PRIORITY)?.unwrap_or(0).cast_signed(),
        drops: number(attrs, chain::POLICY)? == Some(DROP),
    }))
}

/// `enum` of `NFPROTO_*`.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}
