//! Which apiservers this node opens connections to: the table's counters and the forwarder's, looked at each second, and four
//! times a second while it opens some.
//!
//! In: what is programmed. Out: each backend that got connections since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::model::report::Report;
use crate::model::types::Backend;
use crate::nftables::socket::NftSocket;
use crate::proxy::{Origin, Stats};

/// Between two looks while nobody opens connections. A look takes the kernel less than 0.1 ms. Prober and client notice a hanging
/// apiserver this much later at the most.
const IDLE: Duration = Duration::from_secs(1);
/// Between two looks while somebody does, or did within [`REMEMBERED`].
const BUSY: Duration = Duration::from_millis(250);
const REMEMBERED: Duration = Duration::from_secs(5);

/// Looks until nobody listens. What the kernel does not tell is not missed: pings are rarer then.
pub(super) async fn watch(
    reports: watch::Receiver<Report>,
    stats: Arc<Stats>,
    in_use: mpsc::UnboundedSender<Backend>,
) {
    let mut rules = NftSocket::open().inspect_err(|error| {
        tracing::debug!(%error, "the table's counters cannot be read to see which apiservers are in use");
    });
    let (mut counted, mut accepted, mut used) = (BTreeMap::new(), 0, None::<Instant>);
    while !in_use.is_closed() {
        let backends = backends(&reports.borrow());
        let now = rules.as_mut().ok().and_then(|rules| rules.counters(&backends).ok()).unwrap_or_default();
        let forwarded = [Origin::Vip, Origin::Listen].map(|origin| stats.accepted(origin)).iter().sum();
        // The forwarder does not say whom it dialled.
        let led = if forwarded > accepted { backends } else { rose(&counted, &now) };
        (counted, accepted) = (now, forwarded);
        if !led.is_empty() {
            used = Some(Instant::now());
        }
        for backend in led {
            let _ = in_use.send(backend);
        }
        let busy = used.is_some_and(|used| used.elapsed() < REMEMBERED);
        tokio::time::sleep(if busy { BUSY } else { IDLE }).await;
    }
}

fn backends(report: &Report) -> BTreeSet<Backend> {
    report.programmed.iter().flat_map(|state| &state.frontends).flat_map(|f| &f.backends).copied().collect()
}

/// Those whose counter is higher than before, or, if it was reset meanwhile, not 0.
fn rose(before: &BTreeMap<Backend, u64>, now: &BTreeMap<Backend, u64>) -> BTreeSet<Backend> {
    let is_led_to = |(backend, count): &(&Backend, &u64)| match before.get(backend) {
        Some(before) if before <= count => before < count,
        _ => **count > 0,
    };
    now.iter().filter(is_led_to).map(|(backend, _)| *backend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_rose_or_was_reset_shows_use() {
        let backend = |last: u8| Backend::from(([192, 0, 2, last], 6443));
        let before = BTreeMap::from([(backend(1), 5), (backend(2), 5), (backend(3), 5), (backend(4), 5)]);
        let now = BTreeMap::from([
            (backend(1), 5),
            (backend(2), 6),
            (backend(3), 1),
            (backend(4), 0),
            (backend(5), 0),
            (backend(6), 2),
        ]);
        assert_eq!(rose(&before, &now), [backend(2), backend(3), backend(6)].into());
    }
}
