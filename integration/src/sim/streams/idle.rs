//! Connections on which nothing happens for a long time.
//!
//! In: how many, and whether they say anything at first. Out: in the end, how many of them still work.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::Route;
use super::order::{Order, What};

/// Connections opened at the same time, so that thousands do not overflow a listener's backlog.
const OPENING: usize = 64;

/// Longest that one connection may take to answer in the end.
const LIMIT: Duration = Duration::from_secs(30);

/// Open connections.
#[derive(Debug)]
pub struct Held {
    streams: Vec<TcpStream>,
    silent: bool,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// How many were opened.
    pub opened: usize,
    /// How many still carried bytes in the end.
    pub working: usize,
    /// How many had been closed or reset before anybody asked.
    pub told: usize,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

/// Opens connections; those that are not silent have had bytes echoed when this returns.
pub async fn open(targets: &[SocketAddr], sources: &[IpAddr], count: usize, silent: bool) -> Result<Held> {
    ensure!(!targets.is_empty(), "no target");
    let turns = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for i in 0..count {
        let target = targets[i % targets.len()];
        let fits: Vec<IpAddr> =
            sources.iter().copied().filter(|source| source.is_ipv4() == target.is_ipv4()).collect();
        let source = (!fits.is_empty()).then(|| fits[i / targets.len() % fits.len()]);
        let turns = turns.clone();
        opening.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let mut stream = Route { target, source }.dial(false).await?;
            if !silent {
                order(&mut stream).await?;
                exchange(&mut stream).await?;
            }
            anyhow::Ok(stream)
        });
    }
    let mut streams = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        streams.push(opened.context("open a connection")??);
    }
    Ok(Held { streams, silent })
}

impl Held {
    /// Has each of them carry bytes.
    pub async fn examine(self) -> Examined {
        let mut examined = Examined { opened: self.streams.len(), ..Examined::default() };
        let (turns, silent) = (Arc::new(Semaphore::new(OPENING)), self.silent);
        let mut tasks = JoinSet::new();
        for mut stream in self.streams {
            if ended(&stream) {
                examined.told += 1;
                continue;
            }
            let turns = turns.clone();
            tasks.spawn(async move {
                let _turn = turns.acquire_owned().await;
                let work = async {
                    if silent {
                        order(&mut stream).await?;
                    }
                    exchange(&mut stream).await
                };
                tokio::time::timeout(LIMIT, work).await.context("no answer")?
            });
        }
        while let Some(done) = tasks.join_next().await {
            match done.context("a connection's task died").and_then(|outcome| outcome) {
                Ok(()) => examined.working += 1,
                Err(error) if examined.failures.len() < 20 => examined.failures.push(format!("{error:#}")),
                Err(_) => {}
            }
        }
        examined
    }
}

/// Whether the other side's end has arrived. Nothing else can have: nobody says more than is asked.
fn ended(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

async fn order(stream: &mut TcpStream) -> Result<()> {
    let line = format!("{}\n", Order { id: 0, what: What::Echo });
    stream.write_all(line.as_bytes()).await.context("send the order")
}

async fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"still?").await.context("send")?;
    let mut back = [0; 6];
    stream.read_exact(&mut back).await.context("read the echo")?;
    ensure!(&back == b"still?", "the echo is {back:?}");
    Ok(())
}
