use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::*;
use crate::proxy::*;

const LARGE: usize = 64 << 20;

/// Bytes in which every displacement shows.
fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

async fn send(mut to: impl AsyncWriteExt + Unpin, count: usize) {
    for from in (0..count).step_by(1 << 16) {
        to.write_all(&pattern(from, (1 << 16).min(count - from))).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

/// Until the end; whether it is the whole pattern.
async fn receive(mut from: impl AsyncReadExt + Unpin, count: usize) -> bool {
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match from.read(&mut buffer).await.unwrap() {
            0 => return at == count,
            n if buffer[..n] == pattern(at, n)[..] => at += n,
            _ => return false,
        }
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_in_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let options = ForwarderOptions { listen: vec![address.parse().unwrap()], ..Default::default() };
        let mut rig = Rig::with(options, Vec::new()).await;
        rig.route_to(&[echo().await], &[]);
        let mut client = rig.connect().await;
        assert!(echoes(&mut client).await && echoes(&mut client).await);
        assert_eq!(rig.stats.open(Origin::Listen), 1);
        drop(client);
        rig.until(|stats| stats.open(Origin::Listen) == 0).await;
        assert_eq!(
            (rig.stats.bytes(Direction::ToUpstream), rig.stats.bytes(Direction::ToDownstream)),
            (10, 10)
        );
        assert_eq!((rig.stats.accepted(Origin::Listen), rig.stats.accepted(Origin::Vip)), (1, 0));
    }
}

#[tokio::test]
async fn large_transfers_pass_both_ways_at_once() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    let mut client = rig.connect().await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    let ((client_in, client_out), (server_in, server_out)) = (client.split(), server.split());
    let (_, _, down, up) = within(async {
        tokio::join!(
            send(client_out, LARGE),
            send(server_out, LARGE),
            receive(client_in, LARGE),
            receive(server_in, LARGE)
        )
    })
    .await;
    assert!(down && up);
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
}

/// Messages of all lengths around those that are copied, answered before the next, some of them written in parts; and an
/// end right behind the last.
#[tokio::test]
async fn alternating_short_and_long_messages_are_not_delayed() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    let mut client = rig.connect().await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    let lengths = [1, 2, 1 << 10, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 3, 300 << 10, 5, 32 << 10, 1];
    let mut buffer = vec![0; 300 << 10];
    for (turn, length) in lengths.into_iter().cycle().take(110).enumerate() {
        let (from, to) = if turn % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let message = pattern(turn * 7, length);
        let (first, last) = message.split_at(if turn % 3 == 0 { length / 2 } else { 0 });
        let write = async {
            from.write_all(first).await.unwrap();
            from.write_all(last).await.unwrap();
        };
        let (_, read) = within(async { tokio::join!(write, to.read_exact(&mut buffer[..length])) }).await;
        assert!(read.is_ok() && buffer[..length] == message, "turn {turn}: {length} bytes");
    }
    within(send(client, 5)).await;
    assert!(within(receive(server, 5)).await);
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
}

/// The sink is full when short messages come: they wait, in order, and arrive when it has room again.
#[tokio::test]
async fn short_messages_to_a_full_sink_arrive_later() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    let client = rig.connect().await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    server.set_nodelay(true).unwrap();
    let count = 32 << 20;
    let sending = tokio::spawn(async move {
        for from in (0..count).step_by(14_000) {
            server.write_all(&pattern(from, 14_000.min(count - from))).await.unwrap();
        }
        server.shutdown().await.unwrap();
        server
    });
    let mut before = u64::MAX;
    while rig.stats.bytes(Direction::ToDownstream) != before {
        before = rig.stats.bytes(Direction::ToDownstream);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!sending.is_finished(), "nothing was full after {before} bytes");
    assert!(within(receive(client, count)).await);
    within(sending).await.unwrap();
}

#[tokio::test]
async fn half_close_by_either_side_keeps_the_other_direction_open() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    for client_first in [true, false] {
        let mut first = rig.connect().await;
        let (mut second, _) = within(listener.accept()).await.unwrap();
        if !client_first {
            std::mem::swap(&mut first, &mut second);
        }
        within(async {
            send(&mut first, 1 << 20).await;
        })
        .await;
        assert!(within(receive(&mut second, 1 << 20)).await);
        let (_, came) =
            within(async { tokio::join!(send(second, 3 << 20), receive(&mut first, 3 << 20)) }).await;
        assert!(came);
    }
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
}

#[tokio::test]
async fn slow_reader_blocks_the_writer_and_gets_everything() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    let client = rig.connect().await;
    let (server, _) = within(listener.accept()).await.unwrap();
    let sending = tokio::spawn(send(server, LARGE));
    // The buffers of four sockets and one pipe fill, and then nothing moves.
    let mut before = u64::MAX;
    while rig.stats.bytes(Direction::ToDownstream) != before {
        before = rig.stats.bytes(Direction::ToDownstream);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < LARGE as u64 / 2 && !sending.is_finished(), "{before}");
    assert!(within(receive(client, LARGE)).await);
    within(sending).await.unwrap();
}

#[tokio::test]
async fn reset_by_one_side_resets_the_other() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    for (client_resets, half_closed) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut resetting = rig.connect().await;
        let (mut other, _) = within(listener.accept()).await.unwrap();
        if !client_resets {
            std::mem::swap(&mut resetting, &mut other);
        }
        resetting.write_all(b"begun").await.unwrap();
        let mut begun = [0; 5];
        within(other.read_exact(&mut begun)).await.unwrap();
        if half_closed {
            other.shutdown().await.unwrap();
            assert_eq!(within(resetting.read(&mut begun)).await.unwrap(), 0);
        }
        resetting.set_zero_linger().unwrap();
        drop(resetting);
        assert!(is_reset(&mut other).await, "{client_resets} {half_closed}");
    }
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
}

#[tokio::test]
async fn reset_is_noticed_while_the_sink_is_full() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    let mut client = rig.connect().await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    let chunk = pattern(0, 1 << 20);
    while tokio::time::timeout(Duration::from_secs(1), client.write_all(&chunk)).await.is_ok() {}
    client.set_zero_linger().unwrap();
    drop(client);
    rig.until(|stats| stats.open(Origin::Listen) == 0).await;
    assert!(is_reset(&mut server).await);
}

#[tokio::test]
async fn answer_sent_before_a_reset_arrives() {
    let mut rig = Rig::new().await;
    let (listener, backend) = listener().await;
    rig.route_to(&[backend], &[]);
    for _ in 0..20 {
        let mut client = rig.connect().await;
        let (mut server, _) = within(listener.accept()).await.unwrap();
        client.write_all(b"much more than it reads").await.unwrap();
        within(server.readable()).await.unwrap();
        server.write_all(&pattern(0, 20_000)).await.unwrap();
        // With unread bytes in it a socket is not closed but reset.
        drop(server);
        let mut answer = vec![0; 20_000];
        within(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, pattern(0, 20_000));
    }
}
