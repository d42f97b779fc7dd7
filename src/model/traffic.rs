//! Connections that are open now, and the bytes that they have carried, by virtual IP and backend. Pure.
//!
//! In: one open connection after the other, with its bytes where the kernel counts them. Out: sums.

use std::collections::BTreeMap;

use super::types::{Backend, Vip};

/// Bytes of IP packets, headers among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// From clients to the apiserver.
    pub up: u64,
    /// From the apiserver to clients.
    pub down: u64,
}

/// What goes from one virtual IP to one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenConnections {
    /// Connections that are open.
    pub connections: u64,
    /// What those of them have carried that the kernel counts; `None` if it counts none of them.
    pub bytes: Option<ByteCounts>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    counts: bool,
    open: BTreeMap<(Vip, Backend), OpenConnections>,
}

impl Traffic {
    /// No connection yet. `counts`: the kernel counts the bytes of connections that are opened now.
    pub fn new(counts: bool) -> Self {
        Self { counts, open: BTreeMap::new() }
    }

    /// Takes in one open connection. Its bytes are left out if the kernel no longer counts those of new ones: the sum
    /// would be that of a few old connections.
    pub fn add(&mut self, vip: Vip, backend: Backend, bytes: Option<ByteCounts>) {
        let open = self.open.entry((vip, backend)).or_default();
        open.connections += 1;
        if let Some(bytes) = bytes.filter(|_| self.counts) {
            let sum = open.bytes.get_or_insert_default();
            sum.up = sum.up.saturating_add(bytes.up);
            sum.down = sum.down.saturating_add(bytes.down);
        }
    }

    /// What goes from `vip` to `backend`.
    pub fn of(&self, vip: Vip, backend: Backend) -> OpenConnections {
        let nothing = OpenConnections { connections: 0, bytes: self.counts.then(ByteCounts::default) };
        self.open.get(&(vip, backend)).copied().unwrap_or(nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip() -> Vip {
        "10.96.0.1:443".parse().unwrap()
    }

    fn backend(last: u8) -> Backend {
        ([192, 0, 2, last], 6443).into()
    }

    #[test]
    fn bytes_are_summed_by_backend() {
        let mut traffic = Traffic::new(true);
        for (last, up, down) in [(11, 1, 10), (11, 2, 20), (12, 4, 40)] {
            traffic.add(vip(), backend(last), Some(ByteCounts { up, down }));
        }
        // It was opened before the kernel counted.
        traffic.add(vip(), backend(12), None);
        traffic.add(vip(), backend(13), None);
        let open = |connections, bytes: Option<(u64, u64)>| OpenConnections {
            connections,
            bytes: bytes.map(|(up, down)| ByteCounts { up, down }),
        };
        assert_eq!(traffic.of(vip(), backend(11)), open(2, Some((3, 30))));
        assert_eq!(traffic.of(vip(), backend(12)), open(2, Some((4, 40))));
        assert_eq!(traffic.of(vip(), backend(13)), open(1, None));
        assert_eq!(traffic.of(vip(), backend(14)), open(0, Some((0, 0))));
    }

    #[test]
    fn a_kernel_that_does_not_count_has_no_bytes() {
        let mut traffic = Traffic::new(false);
        traffic.add(vip(), backend(11), Some(ByteCounts { up: 1, down: 1 }));
        assert_eq!(traffic.of(vip(), backend(11)), OpenConnections { connections: 1, bytes: None });
        assert_eq!(traffic.of(vip(), backend(12)), OpenConnections::default());
    }
}
