//! A [`FlowKiller`] without a kernel, for tests of what stands above it. It behaves: an order is under way until the
//! test finishes it, one to end flows that is cancelled is reported as such, and a new one for the same backend that is not
//! weaker takes its place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::{FlowKiller, FlowOrder, FlowReport, Purpose, Stale};
use crate::model::types::Backend;

/// What a test sees and sets. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FakeFlows(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    orders: Vec<FlowOrder>,
    under_way: Vec<FlowOrder>,
    finished: VecDeque<FlowReport>,
    forgotten: Vec<Stale>,
}

impl FakeFlows {
    /// Every order so far, oldest first.
    pub fn orders(&self) -> Vec<FlowOrder> {
        self.0.state.borrow().orders.clone()
    }

    /// Connections that were to be forgotten, one for each virtual IP and time.
    pub fn forgotten(&self) -> Vec<Stale> {
        self.0.state.borrow().forgotten.clone()
    }

    /// The orders that are under way.
    pub fn under_way(&self) -> Vec<FlowOrder> {
        self.0.state.borrow().under_way.clone()
    }

    /// Finishes the order for a backend; `change` may fill the report in. `false`: there is none.
    pub fn finish(&self, backend: Backend, change: impl FnOnce(&mut FlowReport)) -> bool {
        let mut state = self.0.state.borrow_mut();
        let Some(at) = state.under_way.iter().position(|order| order.backend == backend) else {
            return false;
        };
        let order = state.under_way.remove(at);
        let mut report = FlowReport::new(backend, order.purpose);
        change(&mut report);
        state.finished.push_back(report);
        self.0.changed.notify_one();
        true
    }
}

impl FlowKiller for FakeFlows {
    fn start(&mut self, order: FlowOrder) {
        let mut state = self.0.state.borrow_mut();
        state.orders.push(order.clone());
        let at = state.under_way.iter().position(|other| other.backend == order.backend);
        match at.and_then(|at| state.under_way.get_mut(at)) {
            Some(other) if order.purpose.is_weaker_than(other.purpose) => {}
            Some(other) => *other = order,
            None => state.under_way.push(order),
        }
    }

    fn cancel(&mut self, backend: Backend) {
        if self.under_way().iter().any(|order| order.backend == backend && order.purpose.ends()) {
            self.finish(backend, |report| report.cancelled = true);
        }
    }

    fn settle(&mut self, backend: Backend) {
        if self.under_way().iter().any(|order| order.backend == backend && order.purpose == Purpose::Move) {
            self.finish(backend, |report| report.cancelled = true);
        }
    }

    fn forget(&mut self, stale: Vec<Stale>) {
        self.0.state.borrow_mut().forgotten.extend(stale);
    }

    async fn finished(&mut self) -> FlowReport {
        loop {
            let report = self.0.state.borrow_mut().finished.pop_front();
            match report {
                Some(report) => return report,
                None => self.0.changed.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_are_under_way_until_they_are_finished_or_cancelled() {
        let order = |last: u8| FlowOrder {
            backend: format!("192.0.2.{last}:6443").parse().unwrap(),
            vips: vec!["10.96.0.1:443".parse().unwrap()],
            purpose: Purpose::End { own_reset: false },
        };
        let fake = FakeFlows::default();
        let mut flows = fake.clone();
        flows.start(order(11));
        flows.start(order(11));
        flows.start(order(12));
        assert_eq!((fake.orders().len(), fake.under_way().len()), (3, 2));
        assert!(fake.finish(order(12).backend, |report| report.flows = 7));
        assert!(!fake.finish(order(12).backend, |_| {}));
        assert_eq!(flows.finished().await.flows, 7);
        flows.cancel(order(11).backend);
        assert!(flows.finished().await.cancelled);
        assert!(fake.under_way().is_empty());
    }

    #[tokio::test]
    async fn the_stronger_order_stays_and_only_an_end_is_cancelled() {
        let backend: Backend = "192.0.2.11:6443".parse().unwrap();
        let order = |purpose| FlowOrder { backend, vips: Vec::new(), purpose };
        let fake = FakeFlows::default();
        let mut flows = fake.clone();
        for (given, stands) in [
            (Purpose::Ask, Purpose::Ask),
            (Purpose::Move, Purpose::Ask),
            (Purpose::End { own_reset: true }, Purpose::End { own_reset: true }),
            (Purpose::End { own_reset: false }, Purpose::End { own_reset: false }),
            (Purpose::Ask, Purpose::End { own_reset: false }),
        ] {
            if given == Purpose::Move {
                flows.cancel(backend);
            }
            flows.start(order(given));
            assert_eq!(fake.under_way(), [order(stands)], "{given:?}");
        }
        flows.cancel(backend);
        assert_eq!(flows.finished().await.purpose, Purpose::End { own_reset: false });
    }
}
