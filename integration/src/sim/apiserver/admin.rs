//! The control socket: orders of the test, and what the server can tell about itself.
//!
//! In: JSON over HTTP/1.1 on a unix socket, as [`crate::sim::protocol`] defines it. Out: changes of the state.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;

use super::state::State;
use super::store::Key;
use crate::sim::protocol::{
    Bump, Certificate, Changed, Delete, Faults, Hang, Inject, Injected, Put, Reset, Stats,
};
use crate::tls;

/// An order that cannot be carried out: answered as 400 with this sentence.
struct Refused(String);

/// Serves the control socket for ever.
pub(super) async fn serve(listener: UnixListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| handle(state.clone(), request));
            // A test that hangs up early has no interest in the answer.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let answer = match body.collect().await {
        Ok(body) => dispatch(&state, &head.method, head.uri.path(), &body.to_bytes()),
        Err(error) => Err(Refused(format!("read the order: {error}"))),
    };
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(Refused(message)) => (StatusCode::BAD_REQUEST, message.into_bytes()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}

fn dispatch(state: &State, method: &Method, path: &str, body: &[u8]) -> Result<Vec<u8>, Refused> {
    match (method.as_str(), path) {
        ("POST", "/put") => put(state, parse(body)?),
        ("POST", "/delete") => delete(state, parse(body)?),
        ("POST", "/bump") => {
            let Bump { resource_version } = parse(body)?;
            changed(state.change(|store| store.bump(resource_version)))
        }
        ("POST", "/drop-history") => {
            let version = state.change(|store| {
                store.drop_history();
                store.version()
            });
            changed(Ok(version))
        }
        ("POST", "/faults") => {
            let faults: Faults = parse(body)?;
            json(&state.faults.send_replace(faults))
        }
        ("GET", "/faults") => json(&*state.faults.borrow()),
        ("POST", "/inject") => {
            let inject: Inject = parse(body)?;
            json(&Injected { watches: state.watches.inject(&inject) })
        }
        ("POST", "/hang") => hang(state, parse(body)?),
        ("POST", "/reset") => reset(state, parse(body)?),
        ("POST", "/certificate") => certificate(state, parse(body)?),
        ("GET", "/stats") => json(&stats(state)),
        (method, path) => Err(Refused(format!("unknown order {method} {path}"))),
    }
}

fn put(state: &State, put: Put) -> Result<Vec<u8>, Refused> {
    changed(state.change(|store| store.put(put.resource_version, put.object)))
}

fn delete(state: &State, delete: Delete) -> Result<Vec<u8>, Refused> {
    let key = Key { resource: delete.resource, namespace: delete.namespace, name: delete.name };
    changed(state.change(|store| store.delete(delete.resource_version, key)))
}

fn hang(state: &State, hang: Hang) -> Result<Vec<u8>, Refused> {
    state.api.set_silent(hang.on);
    state.echo.set_silent(hang.on && hang.echo);
    json(&hang)
}

fn reset(state: &State, reset: Reset) -> Result<Vec<u8>, Refused> {
    state.api.reset_all();
    if reset.echo {
        state.echo.reset_all();
    }
    json(&reset)
}

fn certificate(state: &State, files: Certificate) -> Result<Vec<u8>, Refused> {
    let loaded = tls::curious_server_config(&files.cert, &files.key, tls::ALPN_H2_AND_HTTP1);
    state.show(loaded.map_err(|error| Refused(format!("{error:#}")))?);
    json(&files)
}

fn stats(state: &State) -> Stats {
    let (resource_version, objects) = {
        let store = state.store();
        (store.version(), store.len())
    };
    Stats {
        name: state.name.clone(),
        resource_version,
        objects,
        connections: state.api.opened(),
        echo: state.echo.opened(),
        tls_done: state.tls_done.load(Ordering::Relaxed),
        tls_failed: state.tls_failed.load(Ordering::Relaxed),
        watches: state.watches.list(),
        requests: state.request_counts(),
    }
}

fn changed(result: Result<u64, String>) -> Result<Vec<u8>, Refused> {
    json(&Changed { resource_version: result.map_err(Refused)? })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused(format!("read the order: {error}")))
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| Refused(format!("write the answer: {error}")))
}
