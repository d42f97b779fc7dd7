//! What a watch sends twice, late and out of order: the view is that of the right order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
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
    counted: RefCell<Vec<ReflectorCounter>>,
    reached: RefCell<String>,
}

impl ReflectorHandler for View {
    fn changed(&self, _: Resource, change: Change, _: Instant) -> Result<(), ApiError> {
        let mut slices = self.slices.borrow_mut();
        match change {
            Change::Slice(slice) => slices.insert(slice.metadata.name, slice.metadata.resource_version),
            Change::SliceDeleted(name) => slices.remove(&name),
            other => panic!("{other:?}"),
        };
        Ok(())
    }

    fn watching(&self, _: Resource) {}

    fn counted(&self, what: ReflectorCounter) {
        self.counted.borrow_mut().push(what);
    }

    fn reached(&self, _: Resource, version: &str) {
        version.clone_into(&mut self.reached.borrow_mut());
    }
}

/// The reflector after a list of `slices`, and after a watch that sent `events`.
fn watched(slices: &[&str], events: &[WatchEvent]) -> (Reflector, View) {
    let mut reflector = Reflector::new(Resource::EndpointSlices);
    let view = View::default();
    let listed = slices.iter().map(|name| ((*name).to_owned(), LISTED.to_string()));
    view.slices.borrow_mut().extend(listed);
    let request =
        RequestInfo { verb: "watch", resource: Resource::EndpointSlices, namespace: "default".into() };
    let mut versions = ResourceVersions::after(&LISTED.to_string());
    for event in events {
        reflector.apply(event.clone(), &mut versions, &request, Instant::now(), &view).unwrap();
    }
    (reflector, view)
}

fn put(name: &str, version: u64) -> WatchEvent {
    let metadata =
        ObjectMeta { name: name.into(), resource_version: version.to_string(), ..ObjectMeta::default() };
    let slice = EndpointSlice { metadata, ..EndpointSlice::default() };
    WatchEvent::Changed(Some(Change::Slice(slice)), version.to_string())
}

fn gone(name: &str, version: u64) -> WatchEvent {
    WatchEvent::Changed(Some(Change::SliceDeleted(name.into())), version.to_string())
}

fn bookmark(version: u64) -> WatchEvent {
    WatchEvent::Bookmark(version.to_string())
}

#[test]
fn older_events_change_nothing() {
    let events =
        [gone("a", 9), bookmark(10), put("a", 6), put("a", 8), bookmark(8), put("b", 11), put("b", 10)];
    let (reflector, view) = watched(&["a"], &events);
    assert_eq!(*view.slices.borrow(), BTreeMap::from([("b".to_owned(), "11".to_owned())]));
    assert_eq!(reflector.resume_point, ResumePoint::Watch("11".into()));
    assert_eq!(*view.reached.borrow(), "11");
    use ReflectorCounter::{Bookmark, Event, Stale};
    assert_eq!(*view.counted.borrow(), [Event, Bookmark, Stale, Stale, Stale, Event, Stale]);
}

#[test]
fn slices_deleted_in_one_transaction_are_all_deleted() {
    let (_, view) = watched(&["a", "b"], &[gone("a", 9), gone("b", 9), gone("a", 9)]);
    assert!(view.slices.borrow().is_empty());
    assert_eq!(
        *view.counted.borrow(),
        [ReflectorCounter::Event, ReflectorCounter::Event, ReflectorCounter::Stale]
    );
}

#[test]
fn events_of_other_objects_advance_the_resume_point_only() {
    let other_object = |version: u64| WatchEvent::Changed(None, version.to_string());
    let (reflector, view) = watched(&["a"], &[other_object(20), other_object(9), put("a", 19)]);
    assert_eq!(view.slices.borrow()["a"], "19");
    assert_eq!(reflector.resume_point, ResumePoint::Watch("20".into()));
}

/// Changes of three slices in the order of etcd.
fn history() -> impl Strategy<Value = Vec<WatchEvent>> {
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

fn version_of(event: &WatchEvent) -> u64 {
    match event {
        WatchEvent::Changed(_, version) | WatchEvent::Bookmark(version) => version.parse().unwrap(),
        WatchEvent::Error { .. } => unreachable!(),
    }
}

fn expect_the_same(history: &[WatchEvent], sent: &[WatchEvent]) -> Result<(), TestCaseError> {
    let ((right, expected), (other, found)) = (watched(&["a", "b"], history), watched(&["a", "b"], sent));
    prop_assert_eq!(&*expected.slices.borrow(), &*found.slices.borrow());
    prop_assert_eq!(&right.resume_point, &other.resume_point);
    Ok(())
}

proptest! {
    #[test]
    fn repeated_events_change_nothing(
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
    fn reordered_events_give_the_same_view(
        (history, shuffled) in history().prop_flat_map(|h| (Just(h.clone()), Just(h).prop_shuffle())),
        again in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut sent = shuffled.clone();
        sent.extend(again.into_iter().map(|what| shuffled[what.index(shuffled.len())].clone()));
        expect_the_same(&history, &sent)?;
    }
}

const BOOKMARK: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\"}}}\n";

async fn read_all(chunks: impl Stream<Item = Bytes> + Unpin) -> (Vec<WatchEvent>, Result<(), ApiError>) {
    let body = StreamBody::new(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    let request = RequestInfo { verb: "watch", resource: Resource::Service, namespace: "default".into() };
    let key = "default/kubernetes".parse().unwrap();
    let mut events = Vec::new();
    let ended = read_events(
        body,
        &request,
        &key,
        watch_idle_timeout(300),
        |never| match never {},
        |event, _| {
            events.push(event);
            Ok(())
        },
    )
    .await;
    (events, ended)
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_the_watch_timeout_ends_the_watch() {
    let begin = tokio::time::Instant::now();
    let chunks = stream::iter([Bytes::from_static(BOOKMARK.as_bytes())]).chain(stream::pending());
    let (events, ended) = read_all(chunks).await;
    assert_eq!(events, [WatchEvent::Bookmark("7".into())]);
    assert_eq!(ended.unwrap_err().to_string(), "watch services in namespace default: no answer within 330 s");
    assert_eq!(begin.elapsed(), Duration::from_secs(330));
}

#[tokio::test(start_paused = true)]
async fn every_event_restarts_the_idle_timeout() {
    let begin = tokio::time::Instant::now();
    let slow = stream::iter(0..4).then(|_| async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        Bytes::from_static(BOOKMARK.as_bytes())
    });
    let (events, ended) = read_all(Box::pin(slow)).await;
    assert_eq!((events.len(), ended.is_ok()), (4, true));
    assert_eq!(begin.elapsed(), Duration::from_secs(1200));
}

#[tokio::test]
async fn oversized_event_is_refused_before_it_is_buffered() {
    let mut sent = 0;
    let chunks = stream::iter(std::iter::repeat_with(|| {
        sent += 64 << 10;
        Bytes::from(vec![b'x'; 64 << 10])
    }));
    let (_, ended) = read_all(chunks).await;
    assert!(ended.unwrap_err().to_string().ends_with("sent more than 4 MiB as one object"));
    assert!(sent <= MAX_OBJECT_BYTES + (64 << 10), "read {sent} bytes");
}

#[tokio::test]
async fn truncated_event_at_the_end_is_an_error() {
    let (events, ended) = read_all(stream::iter([Bytes::from(format!("{BOOKMARK}{{\"type\""))])).await;
    assert_eq!(events.len(), 1);
    assert!(ended.unwrap_err().to_string().contains("in the middle of an event, after 7 bytes"));
}

#[test]
fn watch_timeout_is_about_five_minutes() {
    let mut rng = rand::rng();
    for _ in 0..1000 {
        assert!((270..=330).contains(&watch_seconds(&mut rng)));
    }
}
