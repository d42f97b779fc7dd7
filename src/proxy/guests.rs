//! Clients whose arrival somebody waits for: by their local port, which is known before they dial.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared between the forwarder's thread and whoever waits.
#[derive(Debug, Default)]
pub struct Guests {
    /// So many are expected: a look at this is all that other connections cost.
    count: AtomicUsize,
    ports: Mutex<BTreeMap<u16, Option<SocketAddr>>>,
}

impl Guests {
    /// A client is about to dial a virtual IP from this port. Ends with [`Guests::forget`].
    pub fn expect(&self, port: u16) {
        let mut ports = self.ports();
        ports.insert(port, None);
        self.count.store(ports.len(), Relaxed);
    }

    /// The client that came from this port since it was expected.
    pub fn forget(&self, port: u16) -> Option<SocketAddr> {
        let mut ports = self.ports();
        let client = ports.remove(&port).flatten();
        self.count.store(ports.len(), Relaxed);
        client
    }

    /// A connection to a virtual IP was accepted.
    pub(super) fn arrived(&self, client: SocketAddr) {
        if self.count.load(Relaxed) > 0
            && let Some(guest) = self.ports().get_mut(&client.port())
        {
            *guest = Some(client);
        }
    }

    fn ports(&self) -> MutexGuard<'_, BTreeMap<u16, Option<SocketAddr>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_expected_is_remembered() {
        let guests = Guests::default();
        let (guest, other) = (([192, 0, 2, 1], 40_000).into(), ([192, 0, 2, 1], 40_001).into());
        guests.arrived(guest);
        guests.expect(40_000);
        guests.arrived(other);
        assert_eq!(guests.forget(40_000), None);
        guests.expect(40_000);
        guests.arrived(guest);
        assert_eq!(guests.forget(40_000), Some(guest));
        assert_eq!(guests.forget(40_000), None);
    }
}
