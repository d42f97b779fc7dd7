//! The end of an apiserver.
//!
//! Seen after SIGTERM, with a shutdown delay of 0: `/readyz` is 500 at once (10 ms), also on connections that were open
//! before; it has left the EndpointSlices after 33 to 209 ms; after 60 ms idle connections end, those of HTTP/2 with GOAWAY (no
//! error); after 200 ms dials are refused and the connections without any request get theirs. Watches go on, over
//! HTTP/1.1 and HTTP/2, and the process lives: after 60.06 s it ends both cleanly, and after 60.14 s itself.
//!
//! Seen after SIGKILL: every connection ends within 3 ms, without a word of TLS, and dials are refused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::ControlPlane;
use integration::lab::Lab;
use integration::wire::{self, End, Http2, Next, PATIENCE, Server, Watch, soon};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use super::SERVICES;
use super::watches::listed;

/// What usually takes 0.2 s.
const AT_ONCE: Duration = Duration::from_secs(10);
/// A watch goes on for that long after dials are refused, of about a minute.
const GOES_ON: Duration = Duration::from_secs(5);
/// A minute, and time to spare.
const LAST_END: Duration = Duration::from_secs(150);
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Connections of every kind.
struct Open {
    idle1: TlsStream<TcpStream>,
    watch1: TlsStream<TcpStream>,
    idle2: Http2,
    mute2: Http2,
    watching: Http2,
    watch2: Watch,
}

impl Open {
    async fn to(server: &Server) -> Result<Self> {
        let path = format!("{SERVICES}&watch=true&resourceVersion={}", listed(server).await?);
        let (mut idle1, mut watch1) = (server.http1().await?, server.http1().await?);
        wire::get_http1(&mut idle1, "/readyz", server.token()).await?;
        wire::get_http1(&mut watch1, &path, server.token()).await?;
        let (mut idle2, mut watching) = (server.http2().await?, server.http2().await?);
        idle2.get("/readyz", server.token()).await?;
        let watch2 = watching.watch(&path, server.token()).await?;
        Ok(Self { idle1, watch1, idle2, mute2: server.http2().await?, watching, watch2 })
    }
}

pub(super) fn killed(lab: &Lab, plane: &mut ControlPlane<'_>, i: u8) -> Result<()> {
    let server = plane.wire(i);
    wire::inside(lab.node(), || async {
        let mut open = Open::to(&server).await?;
        plane.kill(i)?;
        tokio::time::timeout(AT_ONCE, async {
            for stream in [&mut open.idle1, &mut open.watch1] {
                let end = wire::end_of(stream).await;
                ensure!(matches!(end, End::Closed | End::Reset), "{end:?}");
            }
            for connection in [&mut open.idle2, &mut open.mute2, &mut open.watching] {
                let seen = connection.until("the end", |seen| seen.end.is_some()).await?;
                ensure!(seen.goaway.is_none(), "{seen:?}");
            }
            let end = open.watch2.next().await;
            ensure!(matches!(end, Next::Torn(_)), "{end:?}");
            ensure!(server.dial().await.is_err(), "a dial got through");
            Ok(())
        })
        .await
        .context("some connection outlives its server")?
    })
}

pub(super) fn terminated(lab: &Lab, plane: &mut ControlPlane<'_>, i: u8) -> Result<()> {
    let server = plane.wire(i);
    wire::inside(lab.node(), || async {
        let mut open = Open::to(&server).await?;
        let asking = server.http2().await?;
        plane.terminate(i)?;
        let begin = Instant::now();
        let (asked, refused, _) = tokio::try_join!(
            statuses(asking, &server),
            until_refused(&server),
            idle_ones_end(&mut open.idle1, &mut open.idle2, &mut open.mute2),
        )?;
        println!("/readyz was {asked:?}, dials were refused after {refused:?}");
        ensure!(asked.is_sorted(), "ready again: {asked:?}");
        let seen = open.watching.until("GOAWAY", |seen| seen.goaway.is_some()).await?;
        ensure!(seen.goaway == Some(0), "{seen:?}");
        sleep(GOES_ON).await;
        ensure!(!plane.has_ended(i)?, "the process has ended before its watches");
        ensure!(open.watching.seen().end.is_none(), "{:?}", open.watching.seen());
        let last = async { tokio::join!(last_word(&mut open.watch2), wire::end_of(&mut open.watch1)) };
        let last = tokio::time::timeout(LAST_END, last).await.context("a watch does not end")?;
        println!("the watches ended after {:?}", begin.elapsed());
        ensure!(last == (Next::End(0), End::Closed), "{last:?}");
        ensure!(begin.elapsed() > GOES_ON * 2, "the watches ended after {:?}", begin.elapsed());
        let ended = async {
            while !plane.has_ended(i)? {
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        soon("the end of the process", ended).await?
    })
}

/// What `/readyz` says on a connection, as long as it says anything, without repetitions.
async fn statuses(mut connection: Http2, server: &Server) -> Result<Vec<u16>> {
    let (mut seen, begin) = (Vec::new(), Instant::now());
    while let Ok(answer) = connection.get("/readyz", server.token()).await {
        ensure!([200, 500].contains(&answer.status), "{answer:?}");
        ensure!(begin.elapsed() < AT_ONCE, "a server that stops answers on");
        seen.push(answer.status);
        seen.dedup();
        sleep(ASK_EVERY).await;
    }
    Ok(seen)
}

async fn until_refused(server: &Server) -> Result<Duration> {
    let begin = Instant::now();
    while server.dial().await.is_ok() {
        ensure!(begin.elapsed() < AT_ONCE, "a server that stops takes connections");
        sleep(ASK_EVERY).await;
    }
    Ok(begin.elapsed())
}

async fn idle_ones_end(idle1: &mut TlsStream<TcpStream>, idle2: &mut Http2, mute2: &mut Http2) -> Result<()> {
    let end = tokio::time::timeout(AT_ONCE.min(PATIENCE), wire::end_of(idle1)).await;
    let end = end.context("an idle HTTP/1.1 connection stays")?;
    ensure!(end == End::Closed, "{end:?}");
    for connection in [idle2, mute2] {
        let seen = connection.until("GOAWAY", |seen| seen.goaway.is_some() || seen.end.is_some()).await?;
        ensure!(seen.goaway == Some(0), "{seen:?}");
    }
    Ok(())
}

async fn last_word(watch: &mut Watch) -> Next {
    loop {
        match watch.next().await {
            Next::Event(..) => {}
            end => return end,
        }
    }
}
