//! Totals of connections for each backend that never go backwards. Pure.
//!
//! The kernel's counters do: anyone may reset them, and a flush of the table starts them anew. In: what the kernel
//! says now. Out: what was counted since this daemon first looked, together with what it found then.

use std::collections::BTreeMap;

use crate::model::types::Backend;

/// Backends whose totals are kept. The model admits 64 at a time; the rest is the past.
const MAX_BACKENDS: usize = 256;

/// Totals by backend.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    totals: BTreeMap<Backend, u64>,
    last_seen: BTreeMap<Backend, u64>,
}

impl Ledger {
    /// Takes in what the kernel's counters say now. A value below the last one means that it was reset in between.
    pub fn update(&mut self, observed: &BTreeMap<Backend, u64>) {
        for (backend, value) in observed {
            let before = self.last_seen.get(backend).copied().unwrap_or(0);
            let new = if *value >= before { value - before } else { *value };
            if self.totals.len() < MAX_BACKENDS || self.totals.contains_key(backend) {
                let total = self.totals.entry(*backend).or_default();
                *total = total.saturating_add(new);
            }
        }
        // A backend that is gone has lost its counter: if it comes back, that one starts at 0.
        self.last_seen.clone_from(observed);
    }

    /// The totals, also of backends that are gone.
    pub fn totals(&self) -> &BTreeMap<Backend, u64> {
        &self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(n: u8) -> Backend {
        Backend::from(([192, 0, 2, n], 6443))
    }

    #[test]
    fn a_reset_counter_does_not_lower_the_total() {
        let mut ledger = Ledger::default();
        for value in [5, 9, 2, 4] {
            ledger.update(&BTreeMap::from([(backend(11), value)]));
        }
        assert_eq!(ledger.totals()[&backend(11)], 9 + 4);
    }

    #[test]
    fn a_backend_that_left_and_came_back_goes_on_counting() {
        let mut ledger = Ledger::default();
        ledger.update(&BTreeMap::from([(backend(11), 5)]));
        ledger.update(&BTreeMap::new());
        ledger.update(&BTreeMap::from([(backend(11), 7)]));
        assert_eq!(ledger.totals()[&backend(11)], 12);
    }

    proptest::proptest! {
        #[test]
        fn totals_never_fall(values in proptest::collection::vec(0u64..1000, 1..50)) {
            let mut ledger = Ledger::default();
            let mut before = 0;
            for value in values {
                ledger.update(&BTreeMap::from([(backend(11), value)]));
                let total = ledger.totals()[&backend(11)];
                proptest::prop_assert!(total >= before);
                before = total;
            }
        }
    }
}
