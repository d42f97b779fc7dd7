//! Who else changes our table, from what nf_tables tells everybody after each transaction. Pure.
//!
//! In: datagrams of the group `NFNLGRP_NFTABLES`. Out: one [`Culprit`] for each transaction of somebody else that
//! touched the table.

use std::fmt::{self, Display, Formatter};

use super::kernel::{SUBSYSTEM, generation, msg};
use super::reply::{Malformed, belongs, messages, number, text};

/// `NFNLGRP_NFTABLES` of the kernel's `nfnetlink.h`.
pub const GROUP: u32 = 7;
/// `sizeof(struct nfgenmsg)`.
const GENERIC_HEADER_LEN: usize = 4;

/// A process that changed the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Its pid, as the machine's first pid namespace has it.
    pub pid: u32,
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
}

impl Display for Culprit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Follows the messages of transactions, each of which ends with one about the new generation.
#[derive(Debug, Default)]
pub struct Follower {
    touched: bool,
}

impl Follower {
    /// Takes in a datagram. `own`: the netlink port of the socket that our transactions come from.
    pub fn take(&mut self, datagram: &[u8], own: u32) -> Result<Vec<Culprit>, Malformed> {
        let mut culprits = Vec::new();
        for message in messages(datagram) {
            let message = message?;
            let kind = message.message_type();
            if kind >> 8 != SUBSYSTEM || message.port_number() == own {
                continue;
            }
            if kind & 0xff != msg::NEWGEN {
                self.touched = self.touched || belongs(message.payload())?.is_some();
            } else if std::mem::take(&mut self.touched) {
                let attrs = message.payload().get(GENERIC_HEADER_LEN..).unwrap_or_default();
                let pid = number(attrs, generation::PROC_PID)?.unwrap_or(0);
                let name = text(attrs, generation::PROC_NAME).unwrap_or_default();
                culprits.push(Culprit { pid, name });
            }
        }
        Ok(culprits)
    }
}

#[cfg(test)]
mod tests;
