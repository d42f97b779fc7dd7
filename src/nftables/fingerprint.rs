//! A digest of our table as the kernel lists it, by which a later look tells whether it still is what it was. Pure.
//!
//! In: the datagrams of its dumps. Out: a [`Fingerprint`]. Everything counts but the values of counters: names, order,
//! expressions, flags, the owner, the elements of maps, and the kernel's handles, so that what was replaced by its like is
//! seen too. Elements that expire are not asked for.

use std::hash::{DefaultHasher, Hash, Hasher};

use netlink_packet_core::NlaBuffer;

use super::kernel::{SUBSYSTEM, chain, msg, object, set};
use super::reply::{Malformed, attributes, belongs, messages};

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
                let attr: NlaBuffer<&[u8]> = attr?;
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
mod tests {
    use super::super::build;
    use super::super::owner::Ownership;
    use super::super::reply::Observed;
    use super::super::table::Table;
    use super::super::wire::{batch, replace, tests::state};
    use super::*;

    /// The fingerprint of a kernel that lists what it was sent.
    fn of(table: &Table, ownership: Ownership, counted: u64) -> u64 {
        let mut before = Observed { exists: true, foreign: true, ..Observed::default() };
        let count = super::super::reply::Count { packets: counted, bytes: counted };
        before.counters.extend(table.counters.iter().map(|c| (c.name.clone(), count)));
        let mut print = Fingerprint::default();
        let batch = batch(&replace(table, &before, ownership), 1, None);
        for sequence in 1..=u32::try_from(batch.steps.len() + 1).unwrap() {
            print.add(&batch.bytes, sequence).unwrap();
        }
        print.finish()
    }

    #[test]
    fn counters_do_not_change_it_and_everything_else_does() {
        let mut table = build::table(&state(&["192.0.2.11:6443", "192.0.2.12:6443"]));
        let plain = of(&table, Ownership::Plain, 0);
        assert_eq!(plain, of(&table, Ownership::Plain, 7));
        assert_ne!(plain, of(&table, Ownership::Owned, 0));
        table.chains.swap(0, 1);
        assert_ne!(plain, of(&table, Ownership::Plain, 0));
        table.chains.swap(0, 1);
        table.chains[0].rules.clear();
        assert_ne!(plain, of(&table, Ownership::Plain, 0));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = Fingerprint::default().add(&bytes, 0);
        }
    }
}
