//! The one long-lived nf_tables socket: dumps and transactions.
//!
//! In: a [`Table`], or a question. Out: what the kernel made of it. Every call blocks its thread: the kernel works while
//! `sendmsg` runs, and a commit waits for the commits of others in the same network namespace. [`super::dataplane`] keeps it
//! away from the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use socket2::SockRef;

use super::decode::{self, Count, Fingerprint, ObservedTable, Reply, ReplyContent};
use super::encode::{self, Batch, Step};
use super::names;
use super::table::{Ownership, Set, Table};
use super::uapi::{flowtable, msg, object, rule, set};
use crate::dataplane::{DataplaneError, KernelErrorKind};
use crate::model::types::{Backend, Vip};
use crate::netlink::channel::{self, uninterrupted};
use crate::netlink::message::Malformed;

/// The kernel answers before `sendmsg` returns; this only bounds the wait for an answer that was lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The dump and the commit take 0.3 ms: no other program commits between them so often in a row, unless it never stops.
const COMMIT_ATTEMPTS: u32 = 5;
/// Room for the largest batch that the model admits; the kernel caps it at net.core.wmem_max.
const SEND_BUFFER: usize = 4 << 20;

/// A dump is repeated if anybody changed any rule meanwhile.
pub(super) const DUMP_ATTEMPTS: u32 = 20;

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
    Malformed(#[from] Malformed),
    /// The rules kept changing while they were listed.
    #[error("list table inet apivip: rules kept changing during {DUMP_ATTEMPTS} attempts")]
    Unsteady,
    /// Another process's socket owns the table.
    #[error(
        "change table inet apivip: another process owns it, with netlink port {0} (often its pid); stop that process first"
    )]
    OwnedByAnother(u32),
}

impl NftError {
    /// The kernel knows no nf_tables, so it has no rules of ours either.
    pub fn says_no_nf_tables(&self) -> bool {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => matches!(
                Errno::from_io_error(source),
                Some(Errno::INVAL | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT)
            ),
            _ => false,
        }
    }
}

impl From<NftError> for DataplaneError {
    fn from(error: NftError) -> Self {
        let kind = match &error {
            NftError::Refused { .. } => KernelErrorKind::Refused,
            NftError::OwnedByAnother(_) => KernelErrorKind::OwnedByAnother,
            NftError::Receive(_) | NftError::Malformed(_) => KernelErrorKind::NoAnswer { sent: true },
            NftError::Open(_) | NftError::Send(_) | NftError::Unsteady => {
                KernelErrorKind::NoAnswer { sent: false }
            }
        };
        Self::kernel(kind, error)
    }
}

/// A replacement that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The table as it stood before, with the last values of counters that the replacement took away.
    pub before: ObservedTable,
    /// Steps of the transaction.
    pub steps: usize,
    /// Bytes sent.
    pub bytes: usize,
    /// Whether the table belongs to this socket alone.
    pub owned: bool,
}

/// Whether the table still is what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableState {
    /// It is, or nothing was committed.
    Unchanged,
    /// It is not, or that is not known.
    Changed,
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
        let (socket, port) = channel::open(NETLINK_NETFILTER, REPLY_TIMEOUT).map_err(NftError::Open)?;
        // A smaller buffer only lowers the number of backends that fit.
        let _ = SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER);
        Ok(Self { socket, sequence: 0, port, ownership: Ownership::Plain, installed: None })
    }

    /// The socket whose tables have this owner, where the kernel knows owners that a table outlives (6.9).
    #[must_use]
    pub fn with_ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    /// The port by which events name this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes the kernel's table equal to `table`, in one transaction.
    pub fn replace(&mut self, table: &Table) -> Result<Replacement, NftError> {
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

    fn replace_as(&mut self, table: &Table, ownership: Ownership) -> Result<Replacement, NftError> {
        // Somebody may change the rules between the dump and the commit; then the commit is refused as a whole. Where
        // somebody always does, the last attempt does not ask for the generation of the dump.
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
    ) -> Result<Replacement, NftError> {
        let dump = self.dump_table(false)?;
        self.check_owner(&dump.observed)?;
        let steps = encode::replace(table, &dump.observed, ownership);
        let bytes = self.commit(&steps, exclusive.then_some(dump.generation))?;
        let generation = dump.generation.wrapping_add(1).max(1);
        self.installed = Some(Installed { table: table.clone(), generation, fingerprint: None });
        let owned = ownership == Ownership::Owned;
        Ok(Replacement { before: dump.observed, steps: steps.len(), bytes, owned })
    }

    /// Puts those of these backends that the table which was committed last takes for dead into its sets again, with their
    /// whole time ahead of them, and takes all others out. Nothing else changes, and [`NftSocket::verify`] ignores it.
    pub fn refresh(&mut self, dead: &BTreeSet<Backend>) -> Result<(), NftError> {
        let Some(installed) = &self.installed else { return Ok(()) };
        let fill = |set: &Set| {
            let meant = set.elements.iter().filter(|element| dead.contains(&element.address));
            encode::fill_set(&set.name, meant)
        };
        let filled = installed.table.sets.iter().filter(|set| !set.elements.is_empty());
        let steps: Vec<Step> = filled.flat_map(fill).collect();
        self.commit(&steps, None).map(drop)
    }

    /// Records what the kernel made of the last commit. That must be read before another program changes a rule, or its
    /// change would be taken for ours: where that failed, the same table is committed again.
    pub fn record_fingerprint(&mut self) -> Result<(), NftError> {
        for attempt in 1..=COMMIT_ATTEMPTS {
            let dump = self.dump_table(true)?;
            let Some(installed) = &mut self.installed else { return Ok(()) };
            if dump.generation == installed.generation {
                installed.fingerprint = Some(dump.fingerprint.finish());
                return Ok(());
            }
            // Another program never stops. What cannot be distinguished from its changes is not recorded: the next
            // verification commits again.
            if attempt == COMMIT_ATTEMPTS {
                break;
            }
            let table = installed.table.clone();
            self.replace(&table)?;
        }
        Ok(())
    }

    /// Compares the kernel's table with what was committed last.
    pub fn verify(&mut self) -> Result<TableState, NftError> {
        if self.installed.is_none() {
            return Ok(TableState::Unchanged);
        }
        let mut dump = self.dump_table(true)?;
        let found = dump.fingerprint.finish();
        self.dump_dead_sets(&mut dump)?;
        let Some(Installed { fingerprint, table, .. }) = &self.installed else {
            return Ok(TableState::Unchanged);
        };
        // An element that expired, or was taken away, is put there again in time. One more has flows ended that live.
        let elements = || table.sets.iter().flat_map(|set| &set.elements);
        let nobody_else = dump.observed.dead.iter().all(|dead| elements().any(|e| e.address == *dead));
        let stands = *fingerprint == Some(found) && nobody_else;
        Ok(if stands { TableState::Unchanged } else { TableState::Changed })
    }

    /// Removes the table. `false`: there was none.
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let observed = self.observe()?;
        self.check_owner(&observed)?;
        self.commit(&encode::remove(&observed), None)?;
        self.installed = None;
        Ok(observed.exists)
    }

    fn check_owner(&self, observed: &ObservedTable) -> Result<(), NftError> {
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
        let batch = encode::batch(steps, self.sequence.wrapping_add(1), generation);
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
                match batch_reply(&batch, last, &reply) {
                    BatchReply::Unrelated => {}
                    BatchReply::Accepted => return refused.map_or(Ok(batch.bytes.len()), Err),
                    BatchReply::Refused(error, end) => {
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
        channel::send(&self.socket, bytes).map_err(NftError::Send)
    }

    /// One datagram, as it is and as it reads. However long: an error brings the message that it is about along.
    pub(super) fn receive(&self) -> Result<(Vec<u8>, Vec<Reply>), NftError> {
        let (datagram, _) = uninterrupted(|| self.socket.recv_from_full()).map_err(NftError::Receive)?;
        let replies = decode::parse(&datagram)?;
        Ok((datagram, replies))
    }
}

/// One dump of the table.
#[derive(Debug)]
struct TableDump {
    observed: ObservedTable,
    /// The ruleset's generation, before and after.
    generation: u32,
    fingerprint: Fingerprint,
}

/// Kinds of objects, and the attribute by which the kernel filters them.
const PARTS: [(u16, Option<u16>); 5] = [
    (msg::GETTABLE, None),
    (msg::GETCHAIN, None),
    (msg::GETOBJ, Some(object::TABLE)),
    (msg::GETSET, Some(set::TABLE)),
    (msg::GETFLOWTABLE, Some(flowtable::TABLE)),
];

impl NftSocket {
    /// Reads the table as it stands in the kernel, without its rules.
    pub fn observe(&mut self) -> Result<ObservedTable, NftError> {
        let mut dump = self.dump_table(false)?;
        self.dump_dead_sets(&mut dump)?;
        Ok(dump.observed)
    }

    /// Reads who is in the sets of dead backends, too. They go by themselves, so they are no part of the fingerprint.
    fn dump_dead_sets(&mut self, dump: &mut TableDump) -> Result<(), NftError> {
        for set in dump.observed.sets.keys().cloned().collect::<Vec<_>>() {
            let sequence = self.next_sequence();
            self.dump(&encode::elements_request(&set, sequence), sequence, dump)?;
        }
        Ok(())
    }

    /// The counters of these backends, of new connections, and nothing else of the table: cheaper than a whole dump,
    /// and nobody's commit is waited for. A backend without counter, or all of them without a table, are left out.
    pub fn counters(&mut self, backends: &BTreeSet<Backend>) -> Result<BTreeMap<Backend, u64>, NftError> {
        let counters = self.all_counters()?;
        let count = |backend: &Backend| {
            counters.get(&names::backend_name(*backend)).map(|count| (*backend, count.packets))
        };
        Ok(backends.iter().filter_map(count).collect())
    }

    /// Connections of others than this node that came to `vip`, and those of them that went on; `None` without these counters.
    pub fn connection_counters(&mut self, vip: Vip) -> Result<Option<(u64, u64)>, NftError> {
        let counters = self.all_counters()?;
        let count = |name: String| counters.get(&name).map(|count| count.packets);
        Ok(count(names::received_name(vip)).zip(count(names::forwarded_name(vip))))
    }

    fn all_counters(&mut self) -> Result<BTreeMap<String, Count>, NftError> {
        let mut dump = TableDump {
            observed: ObservedTable::default(),
            generation: 0,
            fingerprint: Fingerprint::default(),
        };
        let sequence = self.next_sequence();
        self.dump(&encode::dump_request(msg::GETOBJ, Some(object::TABLE), sequence), sequence, &mut dump)?;
        Ok(dump.observed.counters)
    }

    /// The table, whole or without its rules, as one generation of the ruleset has it.
    fn dump_table(&mut self, whole: bool) -> Result<TableDump, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let generation = self.generation()?;
            let mut dump = TableDump {
                observed: ObservedTable::default(),
                generation,
                fingerprint: Fingerprint::default(),
            };
            if self.list(&mut dump, whole)? && self.generation()? == generation {
                return Ok(dump);
            }
        }
        Err(NftError::Unsteady)
    }

    /// `false`: a dump was interrupted.
    fn list(&mut self, dump: &mut TableDump, whole: bool) -> Result<bool, NftError> {
        for (kind, filter) in PARTS {
            let sequence = self.next_sequence();
            if !self.dump(&encode::dump_request(kind, filter, sequence), sequence, dump)? {
                return Ok(false);
            }
            // Without the table there is nothing else to see, and a filter for it fails with ENOENT.
            if !dump.observed.exists {
                return Ok(true);
            }
        }
        if !whole {
            return Ok(true);
        }
        let sequence = self.next_sequence();
        if !self.dump(&encode::dump_request(msg::GETRULE, Some(rule::TABLE), sequence), sequence, dump)? {
            return Ok(false);
        }
        for set in dump.observed.maps.clone() {
            let sequence = self.next_sequence();
            if !self.dump(&encode::elements_request(&set, sequence), sequence, dump)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn dump(&mut self, request: &[u8], sequence: u32, dump: &mut TableDump) -> Result<bool, NftError> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            let (datagram, replies) = self.receive()?;
            dump.fingerprint.add(&datagram, sequence)?;
            for reply in replies.into_iter().filter(|reply| reply.sequence == sequence) {
                interrupted |= reply.interrupted;
                match reply.content {
                    ReplyContent::Done => return Ok(!interrupted),
                    ReplyContent::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        // The table went away between two dumps, or the kernel is too old for this kind.
                        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) {
                            return Ok(true);
                        }
                        return Err(NftError::Refused { step: "list its objects".to_owned(), source });
                    }
                    content => dump.observed.add(content),
                }
            }
        }
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        let sequence = self.next_sequence();
        self.send(&encode::generation_request(sequence))?;
        loop {
            for reply in self.receive()?.1.into_iter().filter(|reply| reply.sequence == sequence) {
                match reply.content {
                    ReplyContent::Generation(generation) => return Ok(generation),
                    ReplyContent::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NftError::Refused { step: "report its generation".to_owned(), source });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What one reply says of the whole transaction.
enum BatchReply {
    Unrelated,
    Accepted,
    /// The error, and whether no other answer to this batch will follow.
    Refused(NftError, bool),
}

/// What a reply means for a batch whose last step has sequence number `last`.
fn batch_reply(batch: &Batch, last: u32, reply: &Reply) -> BatchReply {
    let offset = reply.sequence.wrapping_sub(batch.first_sequence);
    let step = match usize::try_from(offset) {
        // The answer to the message that begins the batch concerns the transaction as a whole.
        Ok(0) => "commit the transaction".to_owned(),
        Ok(n) if n <= batch.steps.len() => batch.steps[n - 1].clone(),
        _ => return BatchReply::Unrelated,
    };
    match reply.content {
        ReplyContent::Outcome(None) if reply.sequence == last => BatchReply::Accepted,
        ReplyContent::Outcome(Some(errno)) => {
            let source = io::Error::from_raw_os_error(errno);
            BatchReply::Refused(NftError::Refused { step, source }, offset == 0 || reply.sequence == last)
        }
        _ => BatchReply::Unrelated,
    }
}

/// ERESTART: the ruleset is of a later generation than the one that was dumped. ENOENT, EEXIST, EBUSY: what the table
/// held is no longer what it holds.
fn is_race(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::RESTART)
        || matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy
        )
}

/// EOPNOTSUPP, EINVAL: the kernel does not know the flags of a table.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}
