//! The one long-lived nf_tables socket: dumps and transactions.
//!
//! Every call blocks its thread: the kernel works while `sendmsg` runs, and a commit waits for the commits of
//! others in the same network namespace. [`crate::nftables::dataplane`] keeps it away from the runtime.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use socket2::SockRef;

use super::dump::LOOK_ATTEMPTS;
use super::owner::Ownership;
use super::reply::{self, Observed, Reply};
use super::sets;
use super::table::{Set, Table};
use super::verdict::{Verdict, is_race, is_unknown, verdict};
use super::wire::{self, Step};
use crate::model::types::Backend;

/// The kernel answers before `sendmsg` returns; this only bounds the wait for an answer that was lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The look and the commit take 0.3 ms: nobody else commits between them so often in a row, unless he never stops.
const COMMIT_ATTEMPTS: u32 = 5;
/// Room for the largest batch that the model admits; the kernel caps it at net.core.wmem_max.
const SEND_BUFFER: usize = 4 << 20;

/// Why the kernel's nf_tables could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No such socket: the kernel lacks nf_tables, or the process may not have it.
    #[error("open a netlink socket to nf_tables")]
    Open(#[source] io::Error),
    /// The request did not reach the kernel.
    #[error("send to nf_tables")]
    Send(#[source] io::Error),
    /// No readable answer.
    #[error("receive from nf_tables")]
    Receive(#[source] io::Error),
    /// The kernel refused a step, and with it the whole transaction.
    #[error("nf_tables refused to {step}")]
    Refused {
        /// What was refused.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer does not keep to the format.
    #[error("read the answer of nf_tables")]
    Malformed(#[from] reply::Malformed),
    /// The rules kept changing while they were listed.
    #[error("list table inet apivip: rules kept changing during {LOOK_ATTEMPTS} attempts")]
    Unsteady,
    /// Another process's socket owns the table.
    #[error(
        "change table inet apivip: it belongs to another process, by netlink port {0} (often its pid); stop that one first"
    )]
    OwnedByAnother(u32),
}

impl NftError {
    /// The kernel knows no nf_tables, so it has no rules of ours either. EOPNOTSUPP, EINVAL, EPROTONOSUPPORT,
    /// EAFNOSUPPORT.
    pub fn says_no_nf_tables(&self) -> bool {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => {
                matches!(source.raw_os_error(), Some(22 | 93 | 95 | 97))
            }
            _ => false,
        }
    }
}

/// A replacement that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The table as it stood before, with the last values of counters that the replacement took away.
    pub before: Observed,
    /// Steps of the transaction.
    pub steps: usize,
    /// Bytes sent.
    pub bytes: usize,
    /// Whether the table belongs to this socket alone.
    pub owned: bool,
}

/// Whether the table still is what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is, or nothing was committed.
    Stands,
    /// It is not, or that cannot be told.
    Differs,
}

/// A netlink socket to nf_tables in the network namespace of the thread that opened it.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
    port: u32,
    ownership: Ownership,
    installed: Option<Installed>,
}

/// What was committed last.
struct Installed {
    table: Table,
    generation: u32,
    fingerprint: Option<u64>,
}

impl NftSocket {
    /// Opens the socket. Sending needs CAP_NET_ADMIN, opening does not.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        let port = socket.bind_auto().map_err(NftError::Open)?.port_number();
        let reference = SockRef::from(&socket);
        reference.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(NftError::Open)?;
        // A smaller buffer only lowers the number of backends that fit.
        let _ = reference.set_send_buffer_size(SEND_BUFFER);
        Ok(Self { socket, sequence: 0, port, ownership: Ownership::Plain, installed: None })
    }

    /// The socket whose tables have this owner, where the kernel knows owners that a table outlives (6.9).
    #[must_use]
    pub fn with(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    /// The port by which events name this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes the kernel's table equal to `table`, in one transaction.
    pub fn replace(&mut self, table: &Table) -> Result<Replaced, NftError> {
        match self.replace_as(table, self.ownership) {
            Err(NftError::Refused { source, .. })
                if self.ownership != Ownership::Plain && is_unknown(&source) =>
            {
                // Where the kernel lacks more than owners, this fails as well, and says what it lacks.
                let replaced = self.replace_as(table, Ownership::Plain)?;
                self.ownership = Ownership::Plain;
                Ok(replaced)
            }
            outcome => outcome,
        }
    }

    fn replace_as(&mut self, table: &Table, ownership: Ownership) -> Result<Replaced, NftError> {
        // Somebody may change the rules between the look and the commit; then the commit is refused as a whole. Where
        // somebody always does, the last attempt does not ask for the generation of the look.
        for _ in 1..COMMIT_ATTEMPTS {
            match self.replace_once(table, ownership, true) {
                Err(NftError::Refused { source, .. }) if is_race(&source) => {}
                outcome => return outcome,
            }
        }
        self.replace_once(table, ownership, false)
    }

    fn replace_once(
        &mut self,
        table: &Table,
        ownership: Ownership,
        exclusive: bool,
    ) -> Result<Replaced, NftError> {
        let look = self.look(false)?;
        self.may_change(&look.observed)?;
        let steps = wire::replace(table, &look.observed, ownership);
        let bytes = self.commit(&steps, exclusive.then_some(look.generation))?;
        let generation = look.generation.wrapping_add(1).max(1);
        self.installed = Some(Installed { table: table.clone(), generation, fingerprint: None });
        let owned = ownership == Ownership::Owned;
        Ok(Replaced { before: look.observed, steps: steps.len(), bytes, owned })
    }

    /// Puts those of these backends that the table which was committed last takes for dead into its sets again, with their
    /// whole time ahead of them, and takes all others out. Nothing else changes, and [`NftSocket::verify`] does not mind.
    pub fn refresh(&mut self, dead: &BTreeSet<Backend>) -> Result<(), NftError> {
        let Some(installed) = &self.installed else { return Ok(()) };
        let fill = |set: &Set| {
            let meant = set.elements.iter().filter(|element| dead.contains(&element.address));
            sets::fill(&set.name, meant)
        };
        let filled = installed.table.sets.iter().filter(|set| !set.elements.is_empty());
        let steps: Vec<Step> = filled.flat_map(fill).collect();
        self.commit(&steps, None).map(drop)
    }

    /// Remembers what the kernel made of the last commit. It must be asked before anybody else changes a rule, or his
    /// change would be taken for ours: where that failed, the same table is committed again.
    pub fn remember(&mut self) -> Result<(), NftError> {
        for attempt in 1..=COMMIT_ATTEMPTS {
            let look = self.look(true)?;
            let Some(installed) = &mut self.installed else { return Ok(()) };
            if look.generation == installed.generation {
                installed.fingerprint = Some(look.fingerprint.finish());
                return Ok(());
            }
            // Somebody never stops. What cannot be told from his is not remembered: the next look commits again.
            if attempt == COMMIT_ATTEMPTS {
                break;
            }
            let table = installed.table.clone();
            self.replace(&table)?;
        }
        Ok(())
    }

    /// Compares the kernel's table with what was committed last.
    pub fn verify(&mut self) -> Result<Standing, NftError> {
        if self.installed.is_none() {
            return Ok(Standing::Stands);
        }
        let mut look = self.look(true)?;
        let found = look.fingerprint.finish();
        self.look_at_dead(&mut look)?;
        let Some(Installed { fingerprint, table, .. }) = &self.installed else { return Ok(Standing::Stands) };
        // An element that expired, or was taken away, is put there again in time. One more has flows ended that live.
        let elements = || table.sets.iter().flat_map(|set| &set.elements);
        let nobody_else = look.observed.dead.iter().all(|dead| elements().any(|e| e.address == *dead));
        let stands = *fingerprint == Some(found) && nobody_else;
        Ok(if stands { Standing::Stands } else { Standing::Differs })
    }

    /// Removes the table. `false`: there was none.
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let observed = self.observe()?;
        self.may_change(&observed)?;
        self.commit(&wire::remove(&observed), None)?;
        self.installed = None;
        Ok(observed.exists)
    }

    fn may_change(&self, observed: &Observed) -> Result<(), NftError> {
        match observed.owner {
            Some(owner) if owner != self.port => Err(NftError::OwnedByAnother(owner)),
            _ => Ok(()),
        }
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends the steps as one transaction, unless there are none, and returns how many bytes that took.
    fn commit(&mut self, steps: &[Step], generation: Option<u32>) -> Result<usize, NftError> {
        if steps.is_empty() {
            return Ok(0);
        }
        let batch = wire::batch(steps, self.sequence.wrapping_add(1), generation);
        let last = batch.first_sequence.wrapping_add(u32::try_from(steps.len()).unwrap_or(u32::MAX));
        self.sequence = last.wrapping_add(1);
        self.send(&batch.bytes)?;
        let mut refused = None;
        loop {
            let replies = match self.receive() {
                Ok((_, replies)) => replies,
                Err(error) => return Err(refused.unwrap_or(error)),
            };
            for reply in replies {
                match verdict(&batch, last, &reply) {
                    Verdict::NotOurs => {}
                    Verdict::Accepted => return refused.map_or(Ok(batch.bytes.len()), Err),
                    Verdict::Refused(error, end) => {
                        let first = refused.unwrap_or(error);
                        if end {
                            return Err(first);
                        }
                        refused = Some(first);
                    }
                }
            }
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(bytes, &kernel, 0).map(|_| ()).map_err(NftError::Send)
    }

    /// One datagram, as it is and as it reads.
    pub(super) fn receive(&self) -> Result<(Vec<u8>, Vec<Reply>), NftError> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    let replies = reply::parse(&datagram)?;
                    return Ok((datagram, replies));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NftError::Receive(error)),
            }
        }
    }
}
