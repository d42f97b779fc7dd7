//! Connections without requests.
//!
//! Seen: a bare TCP connection, and one over HTTP/1.1 without a first request, ends after 32.0 s. One over HTTP/1.1 that was
//! asked over before ends after 90.0 s, and one over HTTP/2 gets GOAWAY (no error) after 90 s without a request, whether
//! somebody known has asked over it before or not, although its PINGs are answered. `OPTIONS *` keeps either open, whoever asks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::wire::{self, End, Http2, Server};
use tokio::io::AsyncReadExt;

/// Before and after the ends that are looked for.
const MARGIN: Duration = Duration::from_secs(10);
const FIRST_REQUEST: Duration = Duration::from_secs(32);
const BETWEEN_REQUESTS: Duration = Duration::from_secs(90);
const PING_EVERY: Duration = Duration::from_secs(1);
/// Less than the time of either, and more than half of it.
const OPTIONS_EVERY: Duration = Duration::from_secs(60);

/// Looks at those over which nothing was sent, and at all others where it is `to_the_end`.
pub(super) async fn connections_end(server: &Server, to_the_end: bool) -> Result<()> {
    let short = async { tokio::try_join!(bare(server), mute(server)) };
    if !to_the_end {
        return short.await.map(drop);
    }
    tokio::try_join!(short, asked(server), pinged(server, false), pinged(server, true), kept(server))
        .map(drop)
}

async fn bare(server: &Server) -> Result<()> {
    let mut stream = server.dial().await?;
    let begin = Instant::now();
    let end = tokio::time::timeout(FIRST_REQUEST + MARGIN, stream.read_u8()).await;
    ensure!(end.context("a bare connection is kept open")?.is_err(), "a server speaks first");
    not_before(FIRST_REQUEST, begin)
}

async fn mute(server: &Server) -> Result<()> {
    let mut stream = server.http1().await?;
    let begin = Instant::now();
    let end = tokio::time::timeout(FIRST_REQUEST + MARGIN, wire::end_of(&mut stream)).await;
    let end = end.context("a mute connection is kept open")?;
    ensure!(end == End::Closed, "{end:?}");
    not_before(FIRST_REQUEST, begin)
}

async fn asked(server: &Server) -> Result<()> {
    let mut stream = server.http1().await?;
    wire::get_http1(&mut stream, "/readyz", server.token()).await?;
    let begin = Instant::now();
    let end = tokio::time::timeout(BETWEEN_REQUESTS + MARGIN, wire::end_of(&mut stream)).await;
    let end = end.context("an idle connection is kept open")?;
    ensure!(end == End::Closed, "{end:?}");
    not_before(BETWEEN_REQUESTS, begin)
}

async fn pinged(server: &Server, ask: bool) -> Result<()> {
    let mut connection = server.http2().await?;
    if ask {
        connection.get("/readyz", server.token()).await?;
    }
    let begin = Instant::now();
    while ended(&connection).is_none() && connection.ping().await.is_ok() {
        ensure!(begin.elapsed() < BETWEEN_REQUESTS + MARGIN, "an idle connection is kept open, asked: {ask}");
        tokio::time::sleep(PING_EVERY).await;
    }
    ensure!(ended(&connection) == Some(0), "{:?}", connection.seen());
    not_before(BETWEEN_REQUESTS, begin)
}

async fn kept(server: &Server) -> Result<()> {
    let (mut http2, mut http1) = (server.http2().await?, server.http1().await?);
    for round in 0..3 {
        if round > 0 {
            tokio::time::sleep(OPTIONS_EVERY).await;
        }
        ensure!(http2.options().await? == 200, "OPTIONS * over HTTP/2");
        wire::options_http1(&mut http1).await.with_context(|| format!("OPTIONS * over HTTP/1.1, {round}"))?;
    }
    ensure!(ended(&http2).is_none(), "{:?}", http2.seen());
    Ok(())
}

fn ended(connection: &Http2) -> Option<u32> {
    connection.seen().goaway
}

fn not_before(limit: Duration, begin: Instant) -> Result<()> {
    let took = begin.elapsed();
    ensure!(took + MARGIN > limit, "a connection ended after {took:?} instead of {limit:?}");
    Ok(())
}
