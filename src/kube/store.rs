//! What has been read so far, and the snapshots that follow from it. Pure.
//!
//! In: changes of both collections, in the order of their arrival. Out: a new [`Snapshot`] whenever both collections
//! are known and what a node would be programmed with differs from before.

use std::sync::Arc;

use super::decode::Change;
use crate::model::objects::ClusterView;
use crate::model::snapshot::{Snapshot, SnapshotOptions};

/// Both collections, and the last snapshot made of them.
#[derive(Debug)]
pub(super) struct Store {
    view: ClusterView,
    has_service: bool,
    has_slices: bool,
    options: SnapshotOptions,
    last: Option<Arc<Snapshot>>,
}

impl Store {
    pub(super) fn new(options: SnapshotOptions) -> Self {
        Self { view: ClusterView::default(), has_service: false, has_slices: false, options, last: None }
    }

    /// Applies one change. Returns the new snapshot if there is one.
    pub(super) fn apply(&mut self, change: Change) -> Option<Arc<Snapshot>> {
        match change {
            Change::Service(service) => {
                self.view.service = service;
                self.has_service = true;
            }
            Change::Slices(slices) => {
                self.view.slices = slices;
                self.has_slices = true;
            }
            Change::Slice(slice) => {
                self.view.slices.insert(slice.metadata.name.clone(), slice);
            }
            Change::SliceGone(name) => {
                self.view.slices.remove(&name);
            }
        }
        self.snapshot()
    }

    fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        if !(self.has_service && self.has_slices) {
            return None;
        }
        let generation = self.last.as_ref().map_or(1, |last| last.generation);
        let mut next = Snapshot::build(&self.view, self.options, generation);
        if let Some(last) = &self.last {
            if **last == next {
                return None;
            }
            next.generation += 1;
        }
        let next = Arc::new(next);
        self.last = Some(Arc::clone(&next));
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::objects::{Endpoint, EndpointPort, EndpointSlice, ObjectMeta, Service};

    fn service(ip: &str) -> Change {
        let mut service = Service::default();
        service.spec.cluster_ip = ip.into();
        service.spec.ports = vec![crate::model::objects::ServicePort {
            name: "https".into(),
            port: 443,
            protocol: String::new(),
        }];
        Change::Service(Some(service))
    }

    fn slice(name: &str, address: &str) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
            address_type: "IPv4".into(),
            endpoints: vec![Endpoint { addresses: vec![address.into()], ..Endpoint::default() }],
            ports: vec![EndpointPort { name: "https".into(), port: Some(6443), protocol: String::new() }],
        }
    }

    fn slices(list: &[EndpointSlice]) -> Change {
        Change::Slices(list.iter().map(|s| (s.metadata.name.clone(), s.clone())).collect())
    }

    #[test]
    fn nothing_is_published_before_both_lists_are_complete() {
        let mut store = Store::new(SnapshotOptions::default());
        assert_eq!(store.apply(slices(&[slice("a", "192.0.2.11")])), None);
        let first = store.apply(service("10.96.0.1")).unwrap();
        assert_eq!((first.generation, first.backends().len()), (1, 1));
    }

    #[test]
    fn equal_snapshots_are_not_published_again() {
        let mut store = Store::new(SnapshotOptions::default());
        store.apply(service("10.96.0.1"));
        store.apply(slices(&[slice("a", "192.0.2.11")])).unwrap();
        assert_eq!(store.apply(service("10.96.0.1")), None);
        assert_eq!(store.apply(slices(&[slice("b", "192.0.2.11")])), None);
        let second = store.apply(Change::Slice(slice("c", "192.0.2.12"))).unwrap();
        assert_eq!((second.generation, second.backends().len()), (2, 2));
        let third = store.apply(Change::SliceGone("b".into())).unwrap();
        assert_eq!((third.generation, third.backends().len()), (3, 1));
        assert_eq!(store.apply(Change::SliceGone("b".into())), None);
    }

    #[test]
    fn a_list_replaces_what_vanished_meanwhile() {
        let mut store = Store::new(SnapshotOptions::default());
        store.apply(service("10.96.0.1"));
        store.apply(slices(&[slice("a", "192.0.2.11"), slice("b", "192.0.2.12")])).unwrap();
        assert_eq!(store.apply(slices(&[slice("b", "192.0.2.12")])).unwrap().backends().len(), 1);
        assert!(store.apply(slices(&[])).unwrap().backends().is_empty());
    }
}
