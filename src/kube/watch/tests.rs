use std::convert::Infallible;

use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;
use crate::kube::resource::Resource;

const BOOKMARK: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\"}}}\n";

async fn read_all(chunks: impl Stream<Item = Bytes> + Unpin) -> (Vec<Event>, Result<(), ApiError>) {
    let body = StreamBody::new(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    let asked = Asked { verb: "watch", resource: Resource::Service, namespace: "default".into() };
    let key = "default/kubernetes".parse().unwrap();
    let mut events = Vec::new();
    let ended = read(
        body,
        &asked,
        &key,
        silence(300),
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
async fn silence_beyond_the_servers_own_limit_ends_the_watch() {
    let begin = tokio::time::Instant::now();
    let chunks = stream::iter([Bytes::from_static(BOOKMARK.as_bytes())]).chain(stream::pending());
    let (events, ended) = read_all(chunks).await;
    assert_eq!(events, [Event::Bookmark("7".into())]);
    assert_eq!(ended.unwrap_err().to_string(), "watch services in namespace default: no answer within 330 s");
    assert_eq!(begin.elapsed(), Duration::from_secs(330));
}

#[tokio::test(start_paused = true)]
async fn whatever_arrives_starts_the_silence_anew() {
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
async fn memory_is_bounded_however_the_event_is_cut() {
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
async fn half_an_event_at_the_end_is_an_error() {
    let (events, ended) = read_all(stream::iter([Bytes::from(format!("{BOOKMARK}{{\"type\""))])).await;
    assert_eq!(events.len(), 1);
    assert!(ended.unwrap_err().to_string().contains("in the middle of an event, after 7 bytes"));
}

#[test]
fn watches_last_about_five_minutes() {
    let mut rng = rand::rng();
    for _ in 0..1000 {
        assert!((270..=330).contains(&seconds(&mut rng)));
    }
}
