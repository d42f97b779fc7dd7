//! What the scripted apiservers of one test have in common: objects, watchers, and the faults to show.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a server answers.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A whole body: status, content type, content.
    Body(u16, &'static str, Bytes),
    /// A stream that begins with this and goes on with what the cluster sends.
    Watch(Bytes),
    /// A stream of this alone, which ends in good order.
    SessionEnd(Bytes),
    /// Nothing, ever.
    Hang,
}

impl Reply {
    pub(crate) fn json(code: u16, body: impl Into<Bytes>) -> Self {
        Self::Body(code, "application/json", body.into())
    }

    pub(crate) fn status(code: u16, message: &str) -> Self {
        Self::json(code, status(code, message))
    }
}

pub(crate) fn status(code: u16, message: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","code":{code},"message":"{message}"}}"#
    )
}

/// An answer other than the usual one, for as many requests whose target holds `target`.
struct Fault {
    target: String,
    times: usize,
    reply: Reply,
}

struct State {
    version: u64,
    backends: Vec<SocketAddr>,
    faults: Vec<Fault>,
    watchers: Vec<(String, UnboundedSender<Bytes>)>,
}

/// Shared by all servers of a test.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
}

impl Cluster {
    pub(crate) fn new(backends: &[SocketAddr]) -> Self {
        let state =
            State { version: 100, backends: backends.to_vec(), faults: Vec::new(), watchers: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn fault(&self, target: &str, times: usize, reply: Reply) {
        self.state.lock().unwrap().faults.push(Fault { target: target.into(), times, reply });
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Changes the endpoints, with an event to every watcher of them.
    pub(crate) fn set_backends(&self, backends: &[SocketAddr]) {
        let slice = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            state.backends = backends.to_vec();
            state.slice()
        };
        self.send("endpointslices", &event("MODIFIED", &slice));
    }

    /// Sends a bookmark of the next version to every watcher. Returns that version.
    pub(crate) fn bookmark(&self) -> u64 {
        let version = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            state.version
        };
        for (target, kind) in [("services", "Service"), ("endpointslices", "EndpointSlice")] {
            let api = if kind == "Service" { "v1" } else { "discovery.k8s.io/v1" };
            let object = format!(
                r#"{{"kind":"{kind}","apiVersion":"{api}","metadata":{{"resourceVersion":"{version}"}}}}"#
            );
            self.send(target, &event("BOOKMARK", &object));
        }
        version
    }

    /// Sends bytes to every watcher whose target holds `target`.
    pub(crate) fn send(&self, target: &str, bytes: &str) {
        let bytes = Bytes::from(bytes.to_owned());
        self.state
            .lock()
            .unwrap()
            .watchers
            .retain(|(request, watcher)| !request.contains(target) || watcher.send(bytes.clone()).is_ok());
    }

    /// Ends every watch in good order.
    pub(crate) fn end_watches(&self) {
        self.end_watches_of("");
    }

    /// Ends those whose request contains this.
    pub(crate) fn end_watches_of(&self, target: &str) {
        self.state.lock().unwrap().watchers.retain(|(request, _)| !request.contains(target));
    }

    /// How many watches are open.
    pub(crate) fn watchers(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.watchers.retain(|(_, watcher)| !watcher.is_closed());
        state.watchers.len()
    }

    /// The reply to a request. A watch also gets the channel that feeds it.
    pub(crate) fn answer(&self, target: &str) -> (Reply, Option<UnboundedReceiver<Bytes>>) {
        let mut state = self.state.lock().unwrap();
        let reply = state.fault(target).unwrap_or_else(|| state.usual(target));
        let feed = matches!(reply, Reply::Watch(_)).then(|| {
            let (sender, receiver) = unbounded_channel();
            state.watchers.push((target.to_owned(), sender));
            receiver
        });
        (reply, feed)
    }
}

impl State {
    fn fault(&mut self, target: &str) -> Option<Reply> {
        let fault = self.faults.iter_mut().find(|fault| fault.times > 0 && target.contains(&fault.target))?;
        fault.times -= 1;
        Some(fault.reply.clone())
    }

    fn usual(&self, target: &str) -> Reply {
        if target.contains("watch=true") {
            return Reply::Watch(Bytes::new());
        }
        let (kind, api, item) = if target.contains("endpointslices") {
            ("EndpointSliceList", "discovery.k8s.io/v1", self.slice())
        } else {
            ("ServiceList", "v1", self.service())
        };
        let version = self.version;
        Reply::json(
            200,
            format!(
                r#"{{"kind":"{kind}","apiVersion":"{api}","metadata":{{"resourceVersion":"{version}"}},"items":[{item}]}}"#
            ),
        )
    }

    fn metadata(&self, name: &str) -> String {
        let version = self.version;
        format!(
            r#""metadata":{{"name":"{name}","namespace":"default","resourceVersion":"{version}","labels":{{"kubernetes.io/service-name":"kubernetes"}}}}"#
        )
    }

    fn service(&self) -> String {
        let metadata = self.metadata("kubernetes");
        format!(
            r#"{{"kind":"Service","apiVersion":"v1",{metadata},"spec":{{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],"ports":[{{"name":"https","port":443,"protocol":"TCP"}}]}}}}"#
        )
    }

    fn slice(&self) -> String {
        let metadata = self.metadata("kubernetes");
        let (addresses, port) =
            self.addresses(|ip| format!(r#"{{"addresses":["{ip}"],"conditions":{{"ready":true}}}}"#));
        format!(
            r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1",{metadata},"addressType":"IPv4","endpoints":[{addresses}],"ports":[{{"name":"https","port":{port},"protocol":"TCP"}}]}}"#
        )
    }

    /// All servers of a test listen on one port, at different loopback addresses, as apiservers do.
    fn addresses(&self, write: impl Fn(std::net::IpAddr) -> String) -> (String, u16) {
        let written: Vec<String> = self.backends.iter().map(|backend| write(backend.ip())).collect();
        (written.join(","), self.backends.first().map_or(6443, SocketAddr::port))
    }
}

/// One line of a watch.
pub(crate) fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}
