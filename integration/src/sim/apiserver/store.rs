//! The objects of one simulated apiserver and the recent history of their changes.
//!
//! Pure. In: changes, each at a resourceVersion above the last. Out: lists, and the events that a watch from some
//! version has to see. History is bounded, as a watch cache is, so old versions expire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::selector::Selector;
use crate::sim::protocol::Resource;

/// Events kept; a real watch cache starts at 100 per resource.
const HISTORY: usize = 1000;

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub resource: Resource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a list or watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The kind.
    pub resource: Resource,
    /// The namespace; `None` means all of them.
    pub namespace: Option<String>,
    /// Which of them.
    pub selector: Selector,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvent {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// The object with its resourceVersion.
    pub object: Arc<Value>,
}

/// The version that was asked for is no longer in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The oldest version from which a watch can still start.
    pub oldest: u64,
}

struct Change {
    version: u64,
    key: Key,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// The store.
#[derive(Default)]
pub struct Store {
    version: u64,
    /// Watches may start at this version or later.
    oldest: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
}

impl Store {
    /// The version of the latest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Moves on to `version` (the next when absent) without any change of these objects.
    pub fn bump(&mut self, version: Option<u64>) -> Result<u64, String> {
        let version = version.unwrap_or(self.version + 1);
        if version <= self.version {
            return Err(format!("resourceVersion {version} is not above the store's {}", self.version));
        }
        self.version = version;
        Ok(version)
    }

    /// Stores `object`, stamped with the version.
    pub fn put(&mut self, version: Option<u64>, mut object: Value) -> Result<u64, String> {
        let key = key_of(&object)?;
        let version = self.bump(version)?;
        stamp(&mut object, &key, version);
        let after = Arc::new(object);
        let before = self.objects.insert(key.clone(), after.clone());
        self.remember(Change { version, key, before, after: Some(after) });
        Ok(version)
    }

    /// Removes the object; it is an error when there is none.
    pub fn delete(&mut self, version: Option<u64>, key: Key) -> Result<u64, String> {
        let Some(before) = self.objects.get(&key).cloned() else {
            return Err(format!("{key:?} does not exist"));
        };
        let version = self.bump(version)?;
        self.objects.remove(&key);
        // The last event of an object carries the version of its deletion, as a real server writes it.
        let mut last = Value::clone(&before);
        stamp(&mut last, &key, version);
        self.remember(Change { version, key, before: Some(Arc::new(last)), after: None });
        Ok(version)
    }

    /// Forgets every event: each version below the present one is expired from now on.
    pub fn drop_history(&mut self) {
        self.history.clear();
        self.oldest = self.version;
    }

    /// One object.
    pub fn object(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// The objects in scope, by name.
    pub fn list(&self, scope: &Scope) -> Vec<Arc<Value>> {
        self.objects
            .iter()
            .filter(|(key, object)| scope.covers(key) && scope.selector.matches(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The events in scope after `version`, oldest first.
    pub fn events_after(&self, version: u64, scope: &Scope) -> Result<Vec<WatchEvent>, Expired> {
        if version < self.oldest {
            return Err(Expired { oldest: self.oldest });
        }
        let newer = self.history.partition_point(|change| change.version <= version);
        Ok(self.history.range(newer..).filter_map(|change| scope.event(change)).collect())
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > HISTORY {
            if let Some(gone) = self.history.pop_front() {
                self.oldest = gone.version;
            }
        }
    }
}

impl Scope {
    fn covers(&self, key: &Key) -> bool {
        key.resource == self.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }

    /// An object that enters the selection is added, one that leaves it is deleted, whatever happened in the store.
    fn event(&self, change: &Change) -> Option<WatchEvent> {
        if !self.covers(&change.key) {
            return None;
        }
        let selected = |object: &&Arc<Value>| self.selector.matches(object);
        let before = change.before.as_ref().filter(selected);
        let after = change.after.as_ref().filter(selected);
        let (kind, object) = match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after.clone()),
            (Some(_), Some(after)) => ("MODIFIED", after.clone()),
            (Some(before), None) => ("DELETED", leaving(before, change)),
        };
        Some(WatchEvent { kind, object })
    }
}

/// The old state of an object that left the selection, at the version at which it left.
fn leaving(before: &Value, change: &Change) -> Arc<Value> {
    let mut object = before.clone();
    stamp(&mut object, &change.key, change.version);
    Arc::new(object)
}

fn key_of(object: &Value) -> Result<Key, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = match (text("/apiVersion").as_str(), text("/kind").as_str()) {
        ("v1", "Service") => Resource::Services,
        ("discovery.k8s.io/v1", "EndpointSlice") => Resource::EndpointSlices,
        (version, kind) => return Err(format!("{version:?} {kind:?} is not simulated")),
    };
    let key = Key { resource, namespace: text("/metadata/namespace"), name: text("/metadata/name") };
    if key.namespace.is_empty() || key.name.is_empty() {
        return Err("an object needs metadata.namespace and metadata.name".to_owned());
    }
    Ok(key)
}

fn stamp(object: &mut Value, key: &Key, version: u64) {
    let metadata = &mut object["metadata"];
    metadata["resourceVersion"] = json!(version.to_string());
    if metadata.get("uid").is_none() {
        metadata["uid"] = json!(format!("{}.{}", key.name, key.namespace));
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
