//! Both sides against each other, and against a proxy that loses a byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::client::{self, Route};
use super::record::{End, Pace, Record};
use super::server;

const BYTES: u64 = 3 << 20;
const NO: Duration = Duration::ZERO;

async fn served() -> (Route, mpsc::UnboundedReceiver<Record>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(server::serve(listener, Arc::new(move |record: &Record| drop(tell.send(record.clone())))));
    (Route { target, source: None }, told)
}

#[tokio::test]
async fn every_kind_of_stream_is_carried() {
    let (route, mut told) = served().await;
    client::upload(route, 1, BYTES, Pace::FAST, NO, NO).await.unwrap();
    assert_eq!(told.recv().await.unwrap().received, BYTES);
    let slow = Pace::with_pause(Duration::from_millis(1));
    client::download(route, 2, BYTES, slow, Duration::from_millis(100), NO).await.unwrap();
    assert_eq!(told.recv().await.unwrap().sent, BYTES);
    client::echo(route, 3, BYTES).await.unwrap();
    assert_eq!(told.recv().await.unwrap().end, End::Closed);
    client::half_closed(route, 4, 100_000).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), Record { received: 100_000, ..Record::new(4) });
    client::reset_by_server(route, 5, 1000).await.unwrap();
    assert_eq!(told.recv().await.unwrap().end, End::Aborted);
    client::reset_by_client(route, 6, 1000).await.unwrap();
    assert_eq!(told.recv().await.unwrap().end, End::Reset);
}

/// Carries everything but one byte, in either direction.
async fn lossy(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(target).await.unwrap();
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(lose(from_client, to_server));
            tokio::spawn(lose(from_server, to_client));
        }
    });
    own
}

async fn lose(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
    let (mut buffer, mut passed) = (vec![0; 4096], 0);
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let lost = usize::from((passed..passed + n).contains(&100_000));
        passed += n;
        if to.write_all(&buffer[..n - lost]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

#[tokio::test]
async fn a_lost_byte_is_seen() {
    let (route, _told) = served().await;
    let route = Route { target: lossy(route.target).await, ..route };
    client::upload(route, 1, 50_000, Pace::FAST, NO, NO).await.unwrap();
    client::upload(route, 2, BYTES, Pace::FAST, NO, NO).await.unwrap_err();
    client::download(route, 3, BYTES, Pace::FAST, NO, NO).await.unwrap_err();
    client::echo(route, 4, BYTES).await.unwrap_err();
}
