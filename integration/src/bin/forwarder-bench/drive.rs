//! The client's side of one measurement. It runs in the Pod's namespace and prints an [`Answer`] as JSON.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use integration::sim::streams::client::{self, Route};
use integration::sim::streams::order::{Order, What};
use integration::sim::streams::record::Pace;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Clients that connect, or ask, one after the other, all at the same time.
const CLIENTS: usize = 32;
/// Bytes of a request, and of its answer.
const REQUEST: usize = 1024;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Sends so many bytes.
    Up,
    /// Reads so many bytes.
    Down,
    /// Connects, has a byte echoed, resets; over and over for so long.
    Connect,
    /// Has 1 KiB echoed on open connections, over and over for so long.
    Request,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Bytes, connections or requests.
    pub done: f64,
    /// Bytes, connections or requests, in a second.
    pub rate: f64,
    /// The time that 99 of a hundred connections or requests took at most, in microseconds.
    pub p99_us: f64,
}

/// Does it and prints the answer.
pub fn run(target: SocketAddr, sources: &[IpAddr], work: Work, amount: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        match work {
            Work::Up | Work::Down => transfer(Route { target, source: None }, work, amount).await,
            Work::Connect | Work::Request => rate(target, sources, work, Duration::from_millis(amount)).await,
        }
    })?;
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

async fn transfer(route: Route, work: Work, bytes: u64) -> Result<Answer> {
    let (id, none) = (u64::from(std::process::id()), Duration::ZERO);
    let begin = Instant::now();
    match work {
        Work::Up => client::upload(route, id, bytes, Pace::FAST, none, none).await?,
        _ => client::download(route, id, bytes, Pace::FAST, none, none).await?,
    };
    let done = bytes as f64;
    Ok(Answer { done, rate: done / begin.elapsed().as_secs_f64(), p99_us: 0.0 })
}

async fn rate(target: SocketAddr, sources: &[IpAddr], work: Work, time: Duration) -> Result<Answer> {
    let mut clients = JoinSet::new();
    let begin = Instant::now();
    for i in 0..CLIENTS {
        let source = (!sources.is_empty()).then(|| sources[i % sources.len()]);
        clients.spawn(one(Route { target, source }, work, begin + time));
    }
    let mut taken = Vec::new();
    while let Some(done) = clients.join_next().await {
        taken.extend(done.context("a client's task failed")??);
    }
    let done = taken.len() as f64;
    let rate = done / begin.elapsed().as_secs_f64();
    taken.sort_unstable();
    let p99 = taken.get(taken.len() * 99 / 100).context("nothing was done")?;
    Ok(Answer { done, rate, p99_us: p99.as_secs_f64() * 1e6 })
}

async fn one(route: Route, work: Work, until: Instant) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    let mut open = if work == Work::Request { Some(opened(route).await?) } else { None };
    while Instant::now() < until {
        let begin = Instant::now();
        match &mut open {
            Some(stream) => exchange::<REQUEST>(stream).await?,
            None => {
                let mut stream = opened(route).await?;
                exchange::<1>(&mut stream).await?;
                // A reset leaves no TIME_WAIT behind.
                stream.set_zero_linger()?;
            }
        }
        taken.push(begin.elapsed());
    }
    Ok(taken)
}

async fn opened(route: Route) -> Result<TcpStream> {
    let mut stream = route.dial(false).await?;
    let order = format!("{}\n", Order { id: 0, what: What::Echo });
    stream.write_all(order.as_bytes()).await.context("send the order")?;
    Ok(stream)
}

async fn exchange<const N: usize>(stream: &mut TcpStream) -> Result<()> {
    let (sent, mut back) = ([7; N], [0; N]);
    stream.write_all(&sent).await.context("send a request")?;
    stream.read_exact(&mut back).await.context("read an answer")?;
    ensure!(back == sent, "a wrong answer came");
    Ok(())
}
