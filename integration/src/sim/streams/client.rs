//! The client's side of each kind of stream.
//!
//! In: where from and to, and how much. Out: a [`Record`], or an error where the other side's account differs from it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::order::{Order, What};
use super::record::{End, Pace, Record};

/// A window that a slow reader fills soon.
const SMALL_BUFFER: u32 = 64 << 10;

/// Where a client dials, and from which of its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where to.
    pub target: SocketAddr,
    /// From where; the kernel chooses where there is none.
    pub source: Option<IpAddr>,
}

impl Route {
    /// Connects, with a small receive buffer where the client is to be slow.
    pub async fn dial(self, small: bool) -> Result<TcpStream> {
        let socket = if self.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if small {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        if let Some(source) = self.source {
            // The port is chosen at connect, where only the whole 4-tuple has to be free.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.target).await.with_context(|| format!("dial {}", self.target))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn order(self, id: u64, what: What, small: bool) -> Result<TcpStream> {
        let mut stream = self.dial(small).await?;
        stream.write_all(format!("{}\n", Order { id, what }).as_bytes()).await.context("send the order")?;
        Ok(stream)
    }
}

/// Sends so many bytes, closes its half, and compares what the server says about them. The server reads nothing for
/// `wait`, then with a pause after each read.
pub async fn upload(
    route: Route,
    id: u64,
    bytes: u64,
    pace: Pace,
    wait: Duration,
    pause: Duration,
) -> Result<Record> {
    let mut stream = route.order(id, What::Take { wait, pause }, false).await?;
    let mut record = Record::new(id);
    record.write(&mut stream, bytes, pace).await;
    ensure!(record.end == End::Closed, "the upload ended early: {record:?}");
    stream.shutdown().await.context("close the sending half")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("read the server's answer")?;
    let seen: Record = serde_json::from_slice(&answer)
        .with_context(|| format!("parse the server's answer {:?}", String::from_utf8_lossy(&answer)))?;
    ensure!(seen.received == bytes && !seen.wrong, "{bytes} bytes were sent, the server saw {seen:?}");
    Ok(record)
}

/// Reads so many bytes, with a pause before the first and after each read, to the end that the server makes.
pub async fn download(
    route: Route,
    id: u64,
    bytes: u64,
    pace: Pace,
    wait: Duration,
    pause: Duration,
) -> Result<Record> {
    let small = !wait.is_zero() || !pace.pause.is_zero();
    let mut stream = route.order(id, What::Send { bytes, pause }, small).await?;
    tokio::time::sleep(wait).await;
    let mut record = Record::new(id);
    record.read(&mut stream, pace).await;
    ensure!(
        record.received == bytes && !record.wrong && record.end == End::Closed,
        "{bytes} bytes were asked for, this came: {record:?}"
    );
    stream.shutdown().await.context("close the sending half")?;
    Ok(record)
}

/// Sends so many bytes and reads them back at the same time.
pub async fn echo(route: Route, id: u64, bytes: u64) -> Result<Record> {
    let stream = route.order(id, What::Echo, false).await?;
    let (mut reader, mut writer) = stream.into_split();
    let (mut back, mut out) = (Record::new(id), Record::new(id));
    let write = async {
        out.write(&mut writer, bytes, Pace::FAST).await;
        writer.shutdown().await.context("close the sending half")
    };
    let ((), shut) = tokio::join!(back.read(&mut reader, Pace::FAST), write);
    shut?;
    back.sent = out.sent;
    let whole = back.received == bytes && out.sent == bytes && !back.wrong && back.end == End::Closed;
    ensure!(whole, "{bytes} bytes were sent, this came back: {back:?}; sending ended as {:?}", out.end);
    Ok(back)
}

/// The server closes its half first; then so many bytes go to it. What it saw, its own record says.
pub async fn half_closed(route: Route, id: u64, bytes: u64) -> Result<Record> {
    let mut stream = route.order(id, What::HalfClose, false).await?;
    let length = stream.read(&mut [0; 1]).await.context("wait for the server's end")?;
    ensure!(length == 0, "the server said something before it closed its half");
    let mut record = Record::new(id);
    record.write(&mut stream, bytes, Pace::with_pause(Duration::from_millis(1))).await;
    ensure!(record.end == End::Closed, "the open half broke: {record:?}");
    stream.shutdown().await.context("close the other half")?;
    Ok(record)
}

/// The server sends so many bytes and resets the connection; fails unless the reset arrives here.
pub async fn reset_by_server(route: Route, id: u64, bytes: u64) -> Result<Record> {
    let mut stream = route.order(id, What::Reset { bytes }, false).await?;
    let mut record = Record::new(id);
    record.read(&mut stream, Pace::FAST).await;
    // Bytes before a reset may be lost with it, none may be wrong.
    ensure!(
        record.end == End::Reset && !record.wrong && record.received <= bytes,
        "no reset came: {record:?}"
    );
    Ok(record)
}

/// Sends so many bytes and resets the connection. What the server saw, its own record says.
pub async fn reset_by_client(route: Route, id: u64, bytes: u64) -> Result<Record> {
    let what = What::Take { wait: Duration::ZERO, pause: Duration::ZERO };
    let mut stream = route.order(id, what, false).await?;
    let mut record = Record::new(id);
    record.write(&mut stream, bytes, Pace::FAST).await;
    ensure!(record.end == End::Closed, "the upload ended early: {record:?}");
    // Long enough for a proxy to have a connection to reset.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.set_zero_linger()?;
    record.end = End::Aborted;
    Ok(record)
}
