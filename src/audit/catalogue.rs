//! Every check of the audit, with what `--explain` says of it. Pure.

use super::finding::Check;

pub mod apiserver;
pub mod kubelet;
pub mod proxy;
pub mod redirect;
pub mod requests;

/// Each, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static Check> {
    let parts = [apiserver::ALL, requests::ALL, kubelet::ALL, proxy::ALL, redirect::ALL];
    parts.into_iter().flatten().copied()
}

/// The check of this name.
pub fn find(id: &str) -> Option<&'static Check> {
    all().find(|check| check.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_and_says_what_to_set() {
        let ids: Vec<&str> = all().map(|check| check.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert!(all().is_sorted_by_key(|check| check.way));
        for check in all() {
            assert!(check.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", check.id);
            assert!(check.background.len() > 60 && check.setting.len() > 10, "{}", check.id);
            assert_eq!(find(check.id), Some(check));
        }
        assert_eq!(find("nothing"), None);
    }
}
