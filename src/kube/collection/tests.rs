//! What a watch sends twice, late and out of order: the view is that of the right order.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::model::objects::{EndpointSlice, ObjectMeta};

/// The version of the list before the watch.
const LISTED: u64 = 7;

/// The slices by name, each with its version, and what was counted.
#[derive(Default)]
struct View {
    slices: RefCell<BTreeMap<String, String>>,
    counted: RefCell<Vec<Counted>>,
    reached: RefCell<String>,
}

impl Sink for View {
    fn changed(&self, _: Resource, change: Change, _: Instant) -> Result<(), ApiError> {
        let mut slices = self.slices.borrow_mut();
        match change {
            Change::Slice(slice) => slices.insert(slice.metadata.name, slice.metadata.resource_version),
            Change::SliceGone(name) => slices.remove(&name),
            other => panic!("{other:?}"),
        };
        Ok(())
    }

    fn watching(&self, _: Resource) {}

    fn counted(&self, what: Counted) {
        self.counted.borrow_mut().push(what);
    }

    fn reached(&self, _: Resource, version: &str) {
        version.clone_into(&mut self.reached.borrow_mut());
    }
}

/// The collection after a list of `slices`, and after a watch that sent `events`.
fn watched(slices: &[&str], events: &[Event]) -> (Collection, View) {
    let mut collection = Collection::new(Resource::Slices);
    let view = View::default();
    let listed = slices.iter().map(|name| ((*name).to_owned(), LISTED.to_string()));
    view.slices.borrow_mut().extend(listed);
    let asked = Asked { verb: "watch", resource: Resource::Slices, namespace: "default".into() };
    let mut versions = Versions::after(&LISTED.to_string());
    for event in events {
        collection.take(event.clone(), &mut versions, &asked, Instant::now(), &view).unwrap();
    }
    (collection, view)
}

fn put(name: &str, version: u64) -> Event {
    let metadata =
        ObjectMeta { name: name.into(), resource_version: version.to_string(), ..ObjectMeta::default() };
    let slice = EndpointSlice { metadata, ..EndpointSlice::default() };
    Event::Changed(Some(Change::Slice(slice)), version.to_string())
}

fn gone(name: &str, version: u64) -> Event {
    Event::Changed(Some(Change::SliceGone(name.into())), version.to_string())
}

fn bookmark(version: u64) -> Event {
    Event::Bookmark(version.to_string())
}

#[test]
fn a_server_that_lags_takes_nothing_back() {
    let events =
        [gone("a", 9), bookmark(10), put("a", 6), put("a", 8), bookmark(8), put("b", 11), put("b", 10)];
    let (collection, view) = watched(&["a"], &events);
    assert_eq!(*view.slices.borrow(), BTreeMap::from([("b".to_owned(), "11".to_owned())]));
    assert_eq!(collection.position, Position::Watch("11".into()));
    assert_eq!(*view.reached.borrow(), "11");
    use Counted::{Bookmark, Event, Stale};
    assert_eq!(*view.counted.borrow(), [Event, Bookmark, Stale, Stale, Stale, Event, Stale]);
}

#[test]
fn slices_that_are_deleted_together_are_all_gone() {
    let (_, view) = watched(&["a", "b"], &[gone("a", 9), gone("b", 9), gone("a", 9)]);
    assert!(view.slices.borrow().is_empty());
    assert_eq!(*view.counted.borrow(), [Counted::Event, Counted::Event, Counted::Stale]);
}

#[test]
fn strangers_take_the_position_on_and_change_nothing() {
    let stranger = |version: u64| Event::Changed(None, version.to_string());
    let (collection, view) = watched(&["a"], &[stranger(20), stranger(9), put("a", 19)]);
    assert_eq!(view.slices.borrow()["a"], "19");
    assert_eq!(collection.position, Position::Watch("20".into()));
}

/// Changes of three slices in the order of etcd.
fn history() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec((0usize..3, any::<bool>(), 1u64..4), 1..20).prop_map(|changes| {
        let mut version = LISTED;
        changes
            .into_iter()
            .map(|(name, is_put, step)| {
                version += step;
                let name = ["a", "b", "c"][name];
                if is_put { put(name, version) } else { gone(name, version) }
            })
            .collect()
    })
}

fn version_of(event: &Event) -> u64 {
    match event {
        Event::Changed(_, version) | Event::Bookmark(version) => version.parse().unwrap(),
        Event::Failed { .. } => unreachable!(),
    }
}

fn expect_the_same(history: &[Event], sent: &[Event]) -> Result<(), TestCaseError> {
    let ((right, expected), (other, found)) = (watched(&["a", "b"], history), watched(&["a", "b"], sent));
    prop_assert_eq!(&*expected.slices.borrow(), &*found.slices.borrow());
    prop_assert_eq!(&right.position, &other.position);
    Ok(())
}

proptest! {
    #[test]
    fn what_comes_again_changes_nothing(
        history in history(),
        again in proptest::collection::vec((any::<Index>(), any::<Index>()), 0..20),
        bookmarks in any::<bool>(),
    ) {
        let mut sent = history.clone();
        if bookmarks {
            sent = sent.into_iter().flat_map(|e| [e.clone(), bookmark(version_of(&e))]).collect();
        }
        for (what, place) in again {
            // Behind the first of its kind.
            let first = what.index(sent.len());
            let place = first + 1 + place.index(sent.len() - first);
            let event = sent[first].clone();
            sent.insert(place, event);
        }
        expect_the_same(&history, &sent)?;
    }

    #[test]
    fn the_order_of_arrival_changes_nothing(
        (history, shuffled) in history().prop_flat_map(|h| (Just(h.clone()), Just(h).prop_shuffle())),
        again in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut sent = shuffled.clone();
        sent.extend(again.into_iter().map(|what| shuffled[what.index(shuffled.len())].clone()));
        expect_the_same(&history, &sent)?;
    }
}
