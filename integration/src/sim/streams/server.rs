//! The server's side: obeys the order of each connection and records what it saw.
//!
//! In: accepted TCP streams. Out: per connection with an order, a [`Record`] to whoever listens.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::order::{Order, What};
use super::record::{End, Pace, Record};
use crate::sim::listen;

/// Longer than any order.
const MAX_ORDER: usize = 100;

/// Serves one listener for ever and tells `told` of each connection that has ended.
pub async fn serve(listener: TcpListener, told: Arc<dyn Fn(&Record) + Send + Sync>) {
    listen::accept_each(listener, |stream, _| {
        let told = told.clone();
        tokio::spawn(async move {
            // Without an order there is nothing to record: the client went, or said nothing sensible.
            if let Ok(record) = obey(stream).await {
                told(&record);
            }
        });
    })
    .await;
}

async fn obey(mut stream: TcpStream) -> Result<Record> {
    stream.set_nodelay(true)?;
    let order = order(&mut stream).await?;
    let mut record = Record::new(order.id);
    match order.what {
        What::Echo => echo(&mut stream, &mut record).await,
        What::Take { wait, pause } => {
            tokio::time::sleep(wait).await;
            record.read(&mut stream, Pace::with_pause(pause)).await;
            let answer = serde_json::to_string(&record)?;
            // A client that is gone does not read it; the record says how the stream ended.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        What::Send { bytes, pause } => {
            record.write(&mut stream, bytes, Pace::with_pause(pause)).await;
            if record.end == End::Closed {
                let _ = stream.shutdown().await;
                drain(&mut stream, &mut record).await;
            }
        }
        What::Reset { bytes } => {
            record.write(&mut stream, bytes, Pace::FAST).await;
            stream.set_zero_linger()?;
            record.end = End::Aborted;
        }
        What::HalfClose => {
            stream.shutdown().await?;
            record.read(&mut stream, Pace::FAST).await;
        }
    }
    Ok(record)
}

/// Reads the first line and nothing after it.
pub(super) async fn order(stream: &mut TcpStream) -> Result<Order> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.context("read the order")? {
            b'\n' => break,
            byte if line.len() < MAX_ORDER => line.push(byte),
            _ => bail!("the order does not end"),
        }
    }
    std::str::from_utf8(&line)?.parse()
}

async fn echo(stream: &mut TcpStream, record: &mut Record) {
    let (mut reader, mut writer) = stream.split();
    match tokio::io::copy(&mut reader, &mut writer).await {
        Ok(bytes) => {
            (record.received, record.sent) = (bytes, bytes);
            let _ = writer.shutdown().await;
        }
        Err(error) => record.end = End::from(&error),
    }
}

/// Nothing more is expected of the client than its end.
async fn drain(stream: &mut TcpStream, record: &mut Record) {
    match stream.read(&mut [0; 1]).await {
        Ok(0) => {}
        Ok(_) => record.wrong = true,
        Err(error) => record.end = End::from(&error),
    }
}
