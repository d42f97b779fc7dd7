//! What has been read so far: which resourceVersions of a watch are new, and the snapshots that follow from both
//! collections. Pure.
//!
//! In: the versions of events and bookmarks, and changes of both collections, in the order of their arrival. Out:
//! whether an event is newer than what was known; a new [`Snapshot`] whenever both collections are known and what a
//! node would be programmed with differs from before. Versions are compared as Kubernetes documents it: as unsigned
//! decimal numbers of any length. A version that is none compares with nothing, and is taken as it comes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
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
            Change::SliceDeleted(name) => {
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

/// How old two versions are, seen from each other; `None` where one is no decimal number.
pub(super) fn compare(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (digits(one)?, digits(other)?);
    Some(one.len().cmp(&other.len()).then_with(|| one.cmp(other)))
}

/// Whether it is known to be older.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    compare(version, than) == Some(Ordering::Less)
}

fn digits(version: &str) -> Option<&str> {
    let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| version.trim_start_matches('0'))
}

/// The versions that one watch has sent so far.
///
/// Each object is held to its own version. Kubernetes writes one object per transaction of etcd, so that two objects of
/// one watch do not share a version; but keys that are deleted together in etcd itself do, and then neither event is a
/// repetition of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceVersions {
    /// Everything up to here is known, of all objects.
    complete: String,
    newest: String,
    /// What came after that, by object. It is emptied by each bookmark, and lives no longer than a watch.
    objects: BTreeMap<String, String>,
}

impl ResourceVersions {
    /// Of a watch for what came after `version`.
    pub(super) fn after(version: &str) -> Self {
        Self { complete: version.to_owned(), newest: version.to_owned(), objects: BTreeMap::new() }
    }

    /// The newest that came.
    pub(super) fn newest(&self) -> &str {
        &self.newest
    }

    /// An event of `object`. Returns whether it is new.
    pub(super) fn event(&mut self, object: &str, version: &str) -> bool {
        let known = self.objects.get(object).unwrap_or(&self.complete);
        if matches!(compare(version, known), Some(Ordering::Less | Ordering::Equal)) {
            return false;
        }
        self.objects.insert(object.to_owned(), version.to_owned());
        self.advance(version);
        true
    }

    /// A bookmark: nothing up to `version` is still to come. Returns whether that can be: what is older than an event
    /// was overtaken, and promises nothing.
    pub(super) fn bookmark(&mut self, version: &str) -> bool {
        if is_older(version, &self.newest) {
            return false;
        }
        self.advance(version);
        self.complete.clone_from(&self.newest);
        self.objects.clear();
        true
    }

    /// Never goes back. Nothing continues from an empty version.
    fn advance(&mut self, version: &str) {
        if !version.is_empty() && !is_older(version, &self.newest) {
            version.clone_into(&mut self.newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn nothing_is_published_before_both_lists() {
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
        let third = store.apply(Change::SliceDeleted("b".into())).unwrap();
        assert_eq!((third.generation, third.backends().len()), (3, 1));
        assert_eq!(store.apply(Change::SliceDeleted("b".into())), None);
    }

    #[test]
    fn relist_replaces_the_collection() {
        let mut store = Store::new(SnapshotOptions::default());
        store.apply(service("10.96.0.1"));
        store.apply(slices(&[slice("a", "192.0.2.11"), slice("b", "192.0.2.12")])).unwrap();
        assert_eq!(store.apply(slices(&[slice("b", "192.0.2.12")])).unwrap().backends().len(), 1);
        assert!(store.apply(slices(&[])).unwrap().backends().is_empty());
    }

    #[test]
    fn only_decimal_versions_of_any_length_are_compared() {
        let two_to_the_64th = "18446744073709551616";
        for (one, other, expected) in [
            ("9", "10", Some(Ordering::Less)),
            ("10", "10", Some(Ordering::Equal)),
            ("0010", "10", Some(Ordering::Equal)),
            ("0", "00", Some(Ordering::Equal)),
            (two_to_the_64th, "99", Some(Ordering::Greater)),
            (two_to_the_64th, "18446744073709551617", Some(Ordering::Less)),
            ("", "1", None),
            ("1", "abc", None),
            ("+1", "1", None),
            ("1 ", "1", None),
        ] {
            assert_eq!(compare(one, other), expected, "{one:?} and {other:?}");
        }
    }

    #[test]
    fn versions_that_are_not_newer_are_stale() {
        let mut versions = ResourceVersions::after("100");
        assert!(!versions.event("a", "99"));
        assert!(!versions.event("a", "100"), "the list has it");
        assert!(versions.event("a", "102"));
        assert!(!versions.event("a", "102"), "a repetition");
        assert!(!versions.event("a", "101"), "overtaken");
        assert!(versions.event("b", "101"), "of another object");
        assert!(versions.event("c", "102"), "deleted together");
        assert!(!versions.bookmark("101"));
        assert_eq!(versions.newest(), "102");
        assert!(versions.bookmark("102"));
        assert!(versions.bookmark("110"));
        assert!(!versions.event("d", "109"), "a bookmark has promised that there is none");
        assert_eq!(versions, ResourceVersions::after("110"));
    }

    #[test]
    fn opaque_versions_are_always_accepted() {
        let mut versions = ResourceVersions::after("100");
        for version in ["x2", "x1", "7", "8"] {
            assert!(versions.event("a", version), "{version}");
            assert_eq!(versions.newest(), version);
        }
        assert!(!versions.event("a", "7"));
        assert!(versions.event("a", ""));
        assert_eq!(versions.newest(), "8", "nothing continues from an empty version");
        assert!(versions.bookmark(""));
        assert_eq!(versions.newest(), "8");
    }

    proptest! {
        #[test]
        fn numbers_are_ordered_as_numbers(one: u128, other: u128, zeros in 0usize..4) {
            let padded = format!("{}{one}", "0".repeat(zeros));
            prop_assert_eq!(compare(&padded, &other.to_string()), Some(one.cmp(&other)));
        }

        #[test]
        fn newest_version_never_goes_back(all in proptest::collection::vec((any::<bool>(), 0u8..4, 0u64..50), 0..60)) {
            let mut versions = ResourceVersions::after("20");
            for (is_event, object, version) in all {
                let before = versions.newest().to_owned();
                let version = version.to_string();
                if is_event { versions.event(&object.to_string(), &version) } else { versions.bookmark(&version) };
                prop_assert!(!is_older(versions.newest(), &before));
            }
        }
    }
}
