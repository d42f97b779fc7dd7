//! A packet that conntrack takes for no flow's is not translated: it must not reach a client, whose kernel would reset the
//! connection with the apiserver that it knows nothing of.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::control_plane::Variant;
use integration::forge;
use integration::forwarder::echo_vips;
use integration::lab::{Lab, LabOptions};
use integration::netns::Namespace;
use integration::packets::Capture;
use integration::scenario::Scenario;
use integration::sim::fleet::ECHO_PORT;

const LIMIT: Duration = Duration::from_secs(10);
/// Far outside of any window.
const FAR: u32 = 3_000_000;

/// Which of a segment's numbers is wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// Data from far ahead.
    Sequence,
    /// It acknowledges what was never sent.
    Acknowledgement,
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is of IPv6"),
    }
}

/// The numbers after `key` in the last line that has it, such as `seq 10:24` and `ack 7`.
fn last(text: &str, key: &str) -> Result<u32> {
    let found = text.lines().rev().find_map(|line| line.split_once(key).map(|(_, rest)| rest));
    let found = found.with_context(|| format!("no {key:?} in\n{text}"))?;
    let digits = found.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    digits.with_context(|| format!("no number in {found:?}"))?.parse().context("read a number")
}

fn survives(lab: &Lab, from: &Namespace, wrong: Wrong) -> Result<()> {
    let server = v4(SocketAddr::new(lab.apiserver_addresses(1)[0], ECHO_PORT))?;
    let what = format!("{} {wrong:?}", from.name());
    let name = format!("seen-{wrong:?}-{}", from.name());
    let filter = format!("port {ECHO_PORT}");
    let mut capture = Capture::start(lab.apiserver(1), lab.dir(), &name, "eth0", &filter)?;
    let target = echo_vips(lab)[0];
    let mut stream = from.within(|| Ok(TcpStream::connect_timeout(&target, LIMIT)?))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = [0; 256];
    let greeted = stream.read(&mut line)?;
    ensure!(greeted > 0, "{what}: no greeting");
    exchange(&mut stream).with_context(|| format!("{what}: before"))?;
    let opened = capture.wait_for("the client", LIMIT, |segment| segment.flags == "S.")?;
    let client = v4(opened.destination)?;
    thread::sleep(Duration::from_millis(300));
    let text = capture.text();
    // The capture counts from the beginning of each direction; its first lines show where that was.
    let begin = |flags: &str| -> Result<u32> {
        let line = text.lines().find(|line| line.contains(&format!("Flags [{flags}]")));
        last(line.with_context(|| format!("no {flags} in\n{text}"))?, "seq ")
    };
    let (of_server, of_client) = (begin("S.")?, begin("S")?);
    let (mut sequence, mut acknowledged) =
        (of_server.wrapping_add(1000), of_client.wrapping_add(u32::try_from(b"ping".len())? + 1));
    match wrong {
        Wrong::Sequence => sequence = sequence.wrapping_add(FAR),
        Wrong::Acknowledgement => acknowledged = acknowledged.wrapping_add(FAR),
    }
    forge::send_data(lab.apiserver(1), server, client, (sequence, acknowledged))?;
    thread::sleep(Duration::from_millis(500));
    exchange(&mut stream).with_context(|| format!("{what}: the connection failed\n{}", capture.text()))?;
    ensure!(
        !capture
            .segments()
            .iter()
            .any(|segment| segment.source == SocketAddr::V4(client) && segment.flags.contains('R')),
        "{what}: it was reset\n{}",
        capture.text()
    );
    Ok(())
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"ping", "{back:?} came back");
    Ok(())
}

#[test]
fn what_conntrack_calls_invalid_breaks_no_connection() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1])?;
    let _daemon = scenario.daemon()?;
    for from in [lab.pod(1), lab.node()] {
        for wrong in [Wrong::Sequence, Wrong::Acknowledgement] {
            survives(&lab, from, wrong)?;
        }
    }
    Ok(())
}
