//! One watch: events, bookmarks, the end of its time, and whatever is ordered to be written into it.
//!
//! In: a watch request, changes of the store, orders. Out: JSON lines into the body of the answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::route::ResourceRequest;
use super::state::State;
use super::status;
use super::store::{Expired, WatchEvent};
use super::watches::Registration;
use crate::sim::body::{AnswerBody, streamed};
use crate::sim::objects;
use crate::sim::protocol::{ExpiredForm, Faults, Injection};

/// The stream is over: its time is up, it was told to end, or the client has gone.
struct Ended;

type Step = Result<(), Ended>;

/// Starts the watch, or answers 410 where that form is ordered.
pub(super) fn start(
    state: &Arc<State>,
    peer: SocketAddr,
    path: &str,
    request: ResourceRequest,
    faults: &Faults,
) -> Response<AnswerBody> {
    if faults.expired == ExpiredForm::Http && request.resource_version > 0 {
        let asked = request.resource_version;
        if let Err(Expired { oldest }) = state.store().events_after(asked, &request.scope) {
            return status::answer(
                410,
                &format!("too old resource version: {asked} ({oldest})"),
                Value::Null,
            );
        }
    }
    let (lines, body) = AnswerBody::channel();
    let resource = request.scope.resource;
    let registration = state.watches.register(resource, path, request.asked_version.clone(), peer);
    let stream = Stream {
        faults: state.faults.subscribe(),
        changes: state.changes(),
        state: state.clone(),
        seen: request.resource_version,
        request,
        registration,
        lines,
    };
    tokio::spawn(stream.run());
    streamed("application/json", body)
}

struct Stream {
    state: Arc<State>,
    request: ResourceRequest,
    registration: Registration,
    lines: mpsc::Sender<io::Result<Bytes>>,
    changes: watch::Receiver<u64>,
    faults: watch::Receiver<Faults>,
    /// The version up to which the client has seen everything.
    seen: u64,
}

impl Stream {
    async fn run(mut self) {
        let timeout = tokio::time::sleep(self.duration());
        tokio::pin!(timeout);
        if self.request.resource_version == 0 && self.send_present().await.is_err() {
            return;
        }
        let mut bookmark_at = self.next_bookmark();
        loop {
            if self.send_news().await.is_err() {
                return;
            }
            let step = tokio::select! {
                Ok(()) = self.changes.changed() => Ok(()),
                Ok(()) = self.faults.changed() => {
                    bookmark_at = self.next_bookmark();
                    Ok(())
                }
                Some(order) = self.registration.orders.recv() => self.obey(order).await,
                () = tokio::time::sleep_until(bookmark_at) => {
                    bookmark_at = self.next_bookmark();
                    self.send_bookmark().await
                }
                () = &mut timeout => self.send_bookmark().await.and(Err(Ended)),
                () = self.lines.closed() => Err(Ended),
            };
            if step.is_err() {
                return;
            }
        }
    }

    /// What the client asks for, or between 30 and 60 minutes as a real server chooses.
    fn duration(&self) -> Duration {
        let seconds = self.request.timeout_seconds.filter(|seconds| *seconds > 0);
        Duration::from_secs(seconds.unwrap_or_else(|| rand::rng().random_range(1800..3600)))
    }

    fn next_bookmark(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.faults.borrow_and_update().bookmark_ms.max(1))
    }

    /// Version 0, or none, means: whatever you have, as ADDED events, and a bookmark that says that this was all.
    async fn send_present(&mut self) -> Step {
        let (objects, version) = {
            let store = self.state.store();
            (store.list(&self.request.scope), store.version())
        };
        for object in objects {
            self.send_event("ADDED", &object).await?;
        }
        self.seen = version;
        self.send_bookmark_with(json!({"k8s.io/initial-events-end": "true"})).await
    }

    async fn send_news(&mut self) -> Step {
        self.changes.borrow_and_update();
        let (events, version) = {
            let store = self.state.store();
            (store.events_after(self.seen, &self.request.scope), store.version())
        };
        match events {
            Err(Expired { oldest }) => {
                self.send_event("ERROR", &status::expired(self.seen, oldest)).await?;
                Err(Ended)
            }
            Ok(events) => {
                for WatchEvent { kind, object } in events {
                    self.send_event(kind, &object).await?;
                }
                self.seen = self.seen.max(version);
                Ok(())
            }
        }
    }

    async fn send_bookmark(&mut self) -> Step {
        self.send_bookmark_with(Value::Null).await
    }

    async fn send_bookmark_with(&mut self, annotations: Value) -> Step {
        if !self.request.bookmarks {
            return Ok(());
        }
        let kind = self.request.kind();
        let mut object = json!({
            "kind": kind.kind,
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": self.seen.to_string()},
        });
        if !annotations.is_null() {
            object["metadata"]["annotations"] = annotations;
        }
        self.send_event("BOOKMARK", &object).await
    }

    async fn obey(&mut self, order: Injection) -> Step {
        match order {
            Injection::HalfLine => {
                self.send(
                    r#"{"type":"MODIFIED","object":{"kind":"Service","apiVersion":"v1","metada"#.into(),
                )
                .await?;
                Err(Ended)
            }
            Injection::Large(bytes) => self.send_event("MODIFIED", &self.large(bytes)).await,
            Injection::WrongKind => self.send_event("ADDED", &pod(self.seen)).await,
            Injection::Error(code) => {
                self.send_event("ERROR", &status::object(code, "simulated failure", Value::Null)).await?;
                Err(Ended)
            }
            Injection::Line(text) => self.send(format!("{text}\n").into()).await,
            Injection::Close => Err(Ended),
        }
    }

    /// The watched object, or else a Service, with an annotation that fills the line.
    fn large(&self, bytes: usize) -> Value {
        let present = self.state.store().list(&self.request.scope).first().map(|object| Value::clone(object));
        let mut object = present.unwrap_or_else(|| {
            objects::service(&[[10, 96, 0, 1].into()], &[objects::Port::new("https", 443)], false)
        });
        object["metadata"]["annotations"] = json!({"example.com/filler": "x".repeat(bytes)});
        object["metadata"]["resourceVersion"] = json!(self.seen.to_string());
        object
    }

    async fn send_event(&self, kind: &str, object: &Value) -> Step {
        self.send(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()).await
    }

    async fn send(&self, bytes: Bytes) -> Step {
        self.lines.send(Ok(bytes)).await.map_err(|_| Ended)
    }
}

fn pod(version: u64) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
        "status": {"phase": "Running"},
    })
}
