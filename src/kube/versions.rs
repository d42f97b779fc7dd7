//! Which resourceVersions are news in one watch. Pure.
//!
//! In: where the watch began, and the versions of its events and bookmarks in the order of their arrival. Out: whether
//! each is newer than what was known, and the newest of them. Versions are compared as Kubernetes documents it: as
//! unsigned decimal numbers of any length. A version that is none compares with nothing, and is taken as it comes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

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

/// What one watch has said so far.
///
/// Each object is held to its own version. Kubernetes writes one object per transaction of etcd, so that two objects of
/// one watch do not share a version; but keys that are deleted together in etcd itself do, and then neither event is a
/// repetition of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    /// Everything up to here is known, of all objects.
    complete: String,
    newest: String,
    /// What came after that, by object. It is emptied by each bookmark, and lives no longer than a watch.
    objects: BTreeMap<String, String>,
}

impl Versions {
    /// Of a watch for what came after `version`.
    pub(super) fn after(version: &str) -> Self {
        Self { complete: version.to_owned(), newest: version.to_owned(), objects: BTreeMap::new() }
    }

    /// The newest that came.
    pub(super) fn newest(&self) -> &str {
        &self.newest
    }

    /// An event of `object`. Returns whether it is news.
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

    #[test]
    fn numbers_of_any_length_are_compared_and_nothing_else() {
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
    fn what_is_not_newer_is_no_news() {
        let mut versions = Versions::after("100");
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
        assert_eq!(versions, Versions::after("110"));
    }

    #[test]
    fn what_is_no_number_is_taken_as_it_comes() {
        let mut versions = Versions::after("100");
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
        fn the_newest_never_goes_back(all in proptest::collection::vec((any::<bool>(), 0u8..4, 0u64..50), 0..60)) {
            let mut versions = Versions::after("20");
            for (is_event, object, version) in all {
                let before = versions.newest().to_owned();
                let version = version.to_string();
                if is_event { versions.event(&object.to_string(), &version) } else { versions.bookmark(&version) };
                prop_assert!(!is_older(versions.newest(), &before));
            }
        }
    }
}
