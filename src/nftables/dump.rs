//! Looks at our table in the kernel: its parts, and its fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::fingerprint::Fingerprint;
use super::kernel::{flowtable, msg, object, rule, set};
use super::names;
use super::reply::{Content, Count, Observed};
use super::request;
use super::socket::{NftError, NftSocket};
use crate::model::types::{Backend, Vip};

/// A look is repeated if anybody changed any rule meanwhile.
pub(super) const LOOK_ATTEMPTS: u32 = 20;

/// One look at the table.
#[derive(Debug)]
pub(super) struct Look {
    pub observed: Observed,
    /// The ruleset's generation, before and after.
    pub generation: u32,
    pub fingerprint: Fingerprint,
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
    pub fn observe(&mut self) -> Result<Observed, NftError> {
        let mut look = self.look(false)?;
        self.look_at_dead(&mut look)?;
        Ok(look.observed)
    }

    /// Reads who is in the sets of dead backends, too. They go by themselves, so they are no part of the fingerprint.
    pub(super) fn look_at_dead(&mut self, look: &mut Look) -> Result<(), NftError> {
        for set in look.observed.sets.keys().cloned().collect::<Vec<_>>() {
            let sequence = self.next_sequence();
            self.dump(&request::elements(&set, sequence), sequence, look)?;
        }
        Ok(())
    }

    /// The counters of these backends, of new connections, and nothing else of the table: cheaper than a whole look,
    /// and nobody's commit is waited for. A backend without counter, or all of them without a table, are left out.
    pub fn counters(&mut self, backends: &BTreeSet<Backend>) -> Result<BTreeMap<Backend, u64>, NftError> {
        let counters = self.all_counters()?;
        let count = |backend: &Backend| {
            counters.get(&names::backend_name(*backend)).map(|count| (*backend, count.packets))
        };
        Ok(backends.iter().filter_map(count).collect())
    }

    /// Connections of others than this node that came to `vip`, and those of them that went on; `None` without these counters.
    pub fn others(&mut self, vip: Vip) -> Result<Option<(u64, u64)>, NftError> {
        let counters = self.all_counters()?;
        let count = |name: String| counters.get(&name).map(|count| count.packets);
        Ok(count(names::came_name(vip)).zip(count(names::went_name(vip))))
    }

    fn all_counters(&mut self) -> Result<BTreeMap<String, Count>, NftError> {
        let mut look =
            Look { observed: Observed::default(), generation: 0, fingerprint: Fingerprint::default() };
        let sequence = self.next_sequence();
        self.dump(&request::dump(msg::GETOBJ, Some(object::TABLE), sequence), sequence, &mut look)?;
        Ok(look.observed.counters)
    }

    /// The table, whole or without its rules, as one generation of the ruleset has it.
    pub(super) fn look(&mut self, whole: bool) -> Result<Look, NftError> {
        for _ in 0..LOOK_ATTEMPTS {
            let generation = self.generation()?;
            let mut look =
                Look { observed: Observed::default(), generation, fingerprint: Fingerprint::default() };
            if self.list(&mut look, whole)? && self.generation()? == generation {
                return Ok(look);
            }
        }
        Err(NftError::Unsteady)
    }

    /// `false`: a dump was interrupted.
    fn list(&mut self, look: &mut Look, whole: bool) -> Result<bool, NftError> {
        for (kind, filter) in PARTS {
            let sequence = self.next_sequence();
            if !self.dump(&request::dump(kind, filter, sequence), sequence, look)? {
                return Ok(false);
            }
            // Without the table there is nothing else to see, and a filter for it fails with ENOENT.
            if !look.observed.exists {
                return Ok(true);
            }
        }
        if !whole {
            return Ok(true);
        }
        let sequence = self.next_sequence();
        if !self.dump(&request::dump(msg::GETRULE, Some(rule::TABLE), sequence), sequence, look)? {
            return Ok(false);
        }
        for set in look.observed.maps.clone() {
            let sequence = self.next_sequence();
            if !self.dump(&request::elements(&set, sequence), sequence, look)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn dump(&mut self, request: &[u8], sequence: u32, look: &mut Look) -> Result<bool, NftError> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            let (datagram, replies) = self.receive()?;
            look.fingerprint.add(&datagram, sequence)?;
            for reply in replies.into_iter().filter(|reply| reply.sequence == sequence) {
                interrupted |= reply.interrupted;
                match reply.content {
                    Content::Done => return Ok(!interrupted),
                    Content::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        // The table went away between two dumps, or the kernel is too old for this kind.
                        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) {
                            return Ok(true);
                        }
                        return Err(NftError::Refused { step: "list its objects".to_owned(), source });
                    }
                    content => look.observed.add(content),
                }
            }
        }
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        let sequence = self.next_sequence();
        self.send(&request::generation(sequence))?;
        loop {
            for reply in self.receive()?.1.into_iter().filter(|reply| reply.sequence == sequence) {
                match reply.content {
                    Content::Generation(generation) => return Ok(generation),
                    Content::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NftError::Refused { step: "say its generation".to_owned(), source });
                    }
                    _ => {}
                }
            }
        }
    }
}
