//! Lists and watches, as the daemon asks for them.
//!
//! Seen: a watch from a listed version sends what came later, at times a bookmark, and ends cleanly after its timeoutSeconds. A
//! watch from version 0, or from none, begins with what there is as ADDED and, if bookmarks are welcome, one with
//! `k8s.io/initial-events-end`. A list at a version to come is 504 after some seconds. A watch from a version before the
//! apiserver's start is answered 200, with one ERROR event of code 410 in it. Those of a new cluster go back to version 1.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use integration::control_plane::ControlPlane;
use integration::lab::Lab;
use integration::wire::{self, Next, Server, Watch, soon};
use serde_json::Value;

use super::SERVICES;
use super::answers::refused;

const TIMEOUT: Duration = Duration::from_secs(3);
const NEVER: u64 = 1 << 40;

pub(super) fn follow(lab: &Lab, plane: &ControlPlane<'_>) -> Result<()> {
    let server = plane.wire(1);
    wire::inside(lab.node(), || async {
        let version = listed(&server).await?;
        news_arrive(lab, plane, &server, version).await?;
        time_is_up(&server, listed(&server).await?).await?;
        all_there_is(&server, "").await?;
        all_there_is(&server, "&resourceVersion=0").await?;
        let answer =
            server.http2().await?.get(&format!("{SERVICES}&resourceVersion={NEVER}"), server.token()).await?;
        refused(&answer, 504, "Timeout")
    })
}

pub(super) async fn listed(server: &Server) -> Result<u64> {
    let list = server.http2().await?.get(SERVICES, server.token()).await?.json()?;
    ensure!(list["kind"] == "ServiceList", "{list}");
    let service = &list["items"][0];
    ensure!(service["metadata"]["name"] == "kubernetes" && service["kind"].is_null(), "{list}");
    version(&list)
}

async fn news_arrive(lab: &Lab, plane: &ControlPlane<'_>, server: &Server, from: u64) -> Result<()> {
    let mut connection = server.http2().await?;
    let path =
        format!("{SERVICES}&watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion={from}");
    let mut watch = connection.watch(&path, server.token()).await?;
    // The simulation is ordered about by a runtime of its own, which must not run inside of this one.
    thread::scope(|scope| scope.spawn(|| plane.put_service(&lab.vips(), true)).join())
        .map_err(|_| anyhow!("the thread that writes panicked"))??;
    let (kind, service) = other_than_bookmark(&mut watch).await?;
    ensure!(kind == "MODIFIED" && service["kind"] == "Service", "{kind} {service}");
    ensure!(version(&service)? > from, "{service} after {from}");
    Ok(())
}

async fn time_is_up(server: &Server, from: u64) -> Result<()> {
    let (mut connection, begin) = (server.http2().await?, Instant::now());
    let mut watch =
        connection.watch(&watch_from(&format!("&resourceVersion={from}")), server.token()).await?;
    loop {
        match soon("the end of a watch", watch.next()).await? {
            Next::Event(kind, object) if kind == "BOOKMARK" => {
                ensure!(object["kind"] == "Service" && version(&object)? >= from, "{object} after {from}");
            }
            Next::End(0) => break,
            other => bail!("{other:?}"),
        }
    }
    ensure!(begin.elapsed() > TIMEOUT / 2, "the watch ended after {:?}", begin.elapsed());
    Ok(())
}

async fn all_there_is(server: &Server, from: &str) -> Result<()> {
    let mut connection = server.http2().await?;
    let mut watch = connection.watch(&watch_from(from), server.token()).await?;
    let added = soon("what there is", watch.next()).await?;
    ensure!(
        matches!(&added, Next::Event(kind, object) if kind == "ADDED" && object["metadata"]["name"] == "kubernetes"),
        "{added:?}"
    );
    let Next::Event(kind, object) = soon("a bookmark", watch.next()).await? else { bail!("no bookmark") };
    let annotations = &object["metadata"]["annotations"];
    ensure!(kind == "BOOKMARK" && annotations["k8s.io/initial-events-end"] == "true", "{kind} {object}");
    version(&object).map(drop)
}

/// On an apiserver that has started when there were versions already.
pub(super) async fn too_old(server: &Server) -> Result<()> {
    listed(server).await?;
    let mut connection = server.http2().await?;
    let mut watch = connection.watch(&watch_from("&resourceVersion=1"), server.token()).await?;
    let (kind, status) = other_than_bookmark(&mut watch).await?;
    ensure!(kind == "ERROR" && status["kind"] == "Status" && status["code"] == 410, "{kind} {status}");
    ensure!(status["reason"] == "Expired" && status["status"] == "Failure", "{status}");
    let end = soon("the end of a watch", watch.next()).await?;
    ensure!(end == Next::End(0), "{end:?}");
    Ok(())
}

fn watch_from(version: &str) -> String {
    let seconds = TIMEOUT.as_secs();
    format!("{SERVICES}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{version}")
}

async fn other_than_bookmark(watch: &mut Watch) -> Result<(String, Value)> {
    loop {
        match soon("an event", watch.next()).await? {
            Next::Event(kind, _) if kind == "BOOKMARK" => {}
            Next::Event(kind, object) => return Ok((kind, object)),
            other => bail!("no event but {other:?}"),
        }
    }
}

fn version(object: &Value) -> Result<u64> {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.context("no resourceVersion")?.parse().context("parse a resourceVersion")
}
