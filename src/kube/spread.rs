//! When the node reads another apiserver, though nothing is wrong with the one that it reads.
//!
//! An apiserver that restarts sends those who read it to the others, and nobody back: after a rolling upgrade, one is read by
//! no node. So each node chooses anew now and then, at moments of its own.

use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep_until};

use super::session::Hub;

/// How long one apiserver is read, usually. Upgrades are weeks apart, so hours are soon enough; a move costs the apiserver a TLS
/// handshake and two watches that resume, 0.35 times a second with 5,000 nodes.
pub const SPREAD_INTERVAL: Duration = Duration::from_secs(4 * 60 * 60);

/// When the next choice is due.
pub(super) struct Choices {
    interval: Duration,
    due: Instant,
}

impl Choices {
    pub(super) fn new(interval: Duration) -> Self {
        let mut choices = Self { interval, due: Instant::now() };
        choices.put_off(&mut rand::rng());
        choices
    }

    /// From half the interval to one and a half: nodes that started together, or lost an apiserver together, do not move together.
    fn put_off(&mut self, rng: &mut impl Rng) {
        self.due = Instant::now() + self.interval.mul_f64(rng.random_range(0.5..=1.5));
    }

    /// Waits until another apiserver was chosen. Losing this future loses nothing.
    pub(super) async fn elsewhere(&mut self, hub: &Hub) {
        loop {
            sleep_until(self.due).await;
            self.put_off(&mut rand::rng());
            if hub.candidates().choose_anew() {
                return;
            }
        }
    }
}
