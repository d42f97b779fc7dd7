//! The store's history and what a watch sees of it.

use super::*;
use crate::sim::objects::{Port, endpoint_slice, service};

fn slices() -> Scope {
    Scope {
        resource: Resource::EndpointSlices,
        namespace: Some("default".into()),
        selector: Selector::parse("", "kubernetes.io/service-name=kubernetes").unwrap(),
    }
}

fn slice(ready: &str) -> Value {
    endpoint_slice("kubernetes", "IPv4", &[ready.parse().unwrap()], &[Port::new("https", 6443)])
}

fn slice_key() -> Key {
    Key { resource: Resource::EndpointSlices, namespace: "default".into(), name: "kubernetes".into() }
}

fn kinds(events: &[WatchEvent]) -> Vec<(&'static str, String)> {
    events
        .iter()
        .map(|event| (event.kind, event.object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn a_watch_sees_what_came_after_its_version() {
    let mut store = Store::default();
    store.put(Some(10), slice("192.0.2.11")).unwrap();
    store.put(Some(12), slice("192.0.2.12")).unwrap();
    store.bump(Some(20)).unwrap();
    store.delete(Some(21), slice_key()).unwrap();
    let seen = |version| kinds(&store.events_after(version, &slices()).unwrap());
    assert_eq!(
        seen(0),
        [("ADDED", "10".to_owned()), ("MODIFIED", "12".to_owned()), ("DELETED", "21".to_owned())]
    );
    assert_eq!(seen(12), [("DELETED", "21".to_owned())]);
    assert_eq!(seen(21), []);
    assert_eq!(seen(99), []);
}

#[test]
fn lists_hold_what_is_there_now() {
    let mut store = Store::default();
    store.put(None, slice("192.0.2.11")).unwrap();
    store.put(None, service(&["10.96.0.1".parse().unwrap()], &[Port::new("https", 443)], false)).unwrap();
    assert_eq!(store.version(), 2);
    assert_eq!(store.list(&slices()).len(), 1);
    let elsewhere = Scope { namespace: Some("kube-system".into()), ..slices() };
    assert!(store.list(&elsewhere).is_empty());
    let everywhere = Scope { namespace: None, ..slices() };
    assert_eq!(store.list(&everywhere).len(), 1);
}

#[test]
fn leaving_the_selection_is_a_deletion() {
    let mut store = Store::default();
    store.put(None, slice("192.0.2.11")).unwrap();
    let mut other = slice("192.0.2.11");
    other["metadata"]["labels"] = json!({});
    store.put(None, other).unwrap();
    store.put(None, slice("192.0.2.12")).unwrap();
    let seen = kinds(&store.events_after(1, &slices()).unwrap());
    assert_eq!(seen, [("DELETED", "2".to_owned()), ("ADDED", "3".to_owned())]);
}

#[test]
fn old_versions_expire_by_command_and_by_bound() {
    let mut store = Store::default();
    store.put(Some(5), slice("192.0.2.11")).unwrap();
    store.drop_history();
    assert_eq!(store.events_after(4, &slices()), Err(Expired { oldest: 5 }));
    assert_eq!(store.events_after(5, &slices()), Ok(vec![]));
    for _ in 0..=HISTORY {
        store.put(None, slice("192.0.2.12")).unwrap();
    }
    assert_eq!(store.history.len(), HISTORY);
    assert_eq!(store.events_after(5, &slices()), Err(Expired { oldest: 6 }));
    assert_eq!(store.events_after(6, &slices()).unwrap().len(), HISTORY);
}

#[test]
fn what_is_refused() {
    let mut store = Store::default();
    store.put(Some(5), slice("192.0.2.11")).unwrap();
    assert!(store.put(Some(5), slice("192.0.2.12")).is_err());
    assert!(store.bump(Some(4)).is_err());
    assert!(store.put(None, json!({"kind": "Pod", "apiVersion": "v1"})).is_err());
    store.delete(None, slice_key()).unwrap();
    assert!(store.delete(None, slice_key()).is_err());
    assert_eq!(store.version(), 6);
}
