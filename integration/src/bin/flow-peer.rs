//! Both ends of long-lived TCP connections: a server that says its name and echoes, and a client that holds connections
//! of several kinds and reports how each ended. It prints `ready` once all are open, and on SIGTERM a
//! [`integration::flows::Held`] as JSON. On SIGUSR1 every idle connection sends something, to see whether it is echoed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use integration::flows::{Fate, Held, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Until the last connection's packets have been answered.
const ACKNOWLEDGED: Duration = Duration::from_secs(1);
/// Until all that the kernel had received has been read, too.
const UNREAD: Duration = Duration::from_secs(1);

#[derive(Parser)]
enum Arguments {
    /// Serve
    Serve {
        /// Name in greetings
        #[arg(long)]
        name: String,
        /// Address to listen on; repeatable
        #[arg(long, value_name = "ADDR:PORT", required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Hold connections
    Hold {
        /// Address to dial; repeatable
        #[arg(long, value_name = "ADDR:PORT", required = true)]
        target: Vec<SocketAddr>,
        /// KIND=COUNT connections to each target; repeatable
        #[arg(long, value_parser = kind_and_count, required = true)]
        hold: Vec<(Kind, usize)>,
    },
}

fn kind_and_count(text: &str) -> Result<(Kind, usize), String> {
    let (kind, count) = text.split_once('=').ok_or("expected KIND=COUNT")?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or("no such kind")?;
    Ok((kind, count.parse().map_err(|error| format!("{error}"))?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Serve { name, listen } => serve(&name, &listen).await,
        Arguments::Hold { target, hold } => hold_all(&target, &hold).await,
    }
}

async fn serve(name: &str, listen: &[SocketAddr]) -> Result<()> {
    let mut tasks = JoinSet::new();
    for address in listen {
        let socket = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let greeting = format!("{name}\n");
        tasks.spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let greeting = greeting.clone();
                tokio::spawn(async move { echo(stream, &greeting).await });
            }
        });
    }
    println!("ready");
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// A client that has closed its half keeps the other.
async fn echo(mut stream: TcpStream, greeting: &str) {
    let _ = stream.write_all(greeting.as_bytes()).await;
    let mut buffer = vec![0; 16 << 10];
    while let Ok(len) = stream.read(&mut buffer).await {
        if len == 0 {
            return std::future::pending().await;
        }
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

async fn hold_all(targets: &[SocketAddr], wanted: &[(Kind, usize)]) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let (speak, spoken) = watch::channel(());
    let held: Arc<Mutex<Held>> = Arc::default();
    let mut opening = JoinSet::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(128));
    for (target, (kind, count)) in
        targets.iter().flat_map(|target| wanted.iter().map(move |one| (*target, *one)))
    {
        for _ in 0..count {
            let turns = turns.clone();
            opening.spawn(async move {
                let _turn = turns.acquire_owned().await;
                open(target, kind).await
            });
        }
    }
    let mut holding = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        let (stream, server, kind) = opened.context("open a connection")??;
        if let Ok(mut held) = held.lock() {
            held.fates.entry(server.clone()).or_default().entry(kind).or_default().open += 1;
        }
        let held = held.clone();
        let spoken = spoken.clone();
        holding.spawn(async move {
            let echoed = || {
                if let Ok(mut held) = held.lock() {
                    held.fates.entry(server.clone()).or_default().entry(kind).or_default().echoed += 1;
                }
            };
            let error = hold(stream, kind, spoken, echoed).await;
            if let Ok(mut held) = held.lock() {
                let fate = held.fates.entry(server).or_default().entry(kind).or_default();
                ended(fate, &error);
            }
        });
    }
    // The other side has acknowledged what was sent, and the end of it: nothing will be sent again.
    tokio::time::sleep(ACKNOWLEDGED).await;
    println!("ready");
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = usr1.recv() => speak.send_replace(()),
        }
    }
    // What came before the signal may not have been read yet.
    tokio::time::sleep(UNREAD).await;
    if let Ok(held) = held.lock() {
        println!("{}", serde_json::to_string(&*held)?);
    }
    Ok(())
}

fn ended(fate: &mut Fate, error: &std::io::Error) {
    fate.open -= 1;
    let reason = match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::ConnectionAborted => "aborted".to_owned(),
        kind => format!("{kind}"),
    };
    *fate.ended.entry(reason).or_default() += 1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    fate.at_ms.push(now.as_secs_f64() * 1e3);
}

async fn open(target: SocketAddr, kind: Kind) -> Result<(TcpStream, String, Kind)> {
    let mut stream = TcpStream::connect(target).await.with_context(|| format!("dial {target}"))?;
    let mut name = Vec::new();
    loop {
        match stream.read_u8().await.context("read the server's name")? {
            b'\n' => break,
            byte => name.push(byte),
        }
    }
    if kind == Kind::HalfClosed {
        stream.shutdown().await.context("close the sending half")?;
    }
    Ok((stream, String::from_utf8(name)?, kind))
}

/// Until the connection breaks.
async fn hold(
    stream: TcpStream,
    kind: Kind,
    mut spoken: watch::Receiver<()>,
    echoed: impl Fn(),
) -> std::io::Error {
    let (mut reader, mut writer) = stream.into_split();
    let read = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return ErrorKind::UnexpectedEof.into(),
                Ok(_) if kind == Kind::Idle => echoed(),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let write = async {
        match kind {
            Kind::Busy => {}
            Kind::HalfClosed => return std::future::pending().await,
            Kind::Idle => {
                while spoken.changed().await.is_ok() {
                    if let Err(error) = writer.write_all(b"x").await {
                        return error;
                    }
                }
                return std::future::pending().await;
            }
        }
        let chunk = vec![7; 4096];
        loop {
            if let Err(error) = writer.write_all(&chunk).await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        error = read => error,
        error = write => error,
    }
}
