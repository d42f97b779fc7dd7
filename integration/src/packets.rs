//! Packets seen from outside the product: a bounded capture in a namespace, and the peers that a server logged.
//! In: an interface and a filter, or an access log. Out: who sent what to whom.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Namespace;
use crate::process::Spawned;

/// A capture ends by itself after so many packets, so that a test in a loop cannot fill the disk.
const MOST_PACKETS: &str = "100000";

/// Longest until tcpdump listens. It usually takes a tenth of a second.
const START_LIMIT: Duration = Duration::from_secs(20);

/// One captured TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// Its flags as tcpdump writes them: `S` is SYN, `S.` SYN and ACK, `R` and `R.` RST, `.` ACK alone.
    pub flags: String,
}

/// A running tcpdump. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    process: Spawned,
}

impl Capture {
    /// Starts to capture TCP on one interface of `namespace` (`any` for all) and returns once it listens. The
    /// filter is tcpdump's, such as `port 6443`; the text goes to `FOLDER/NAME.stdout`.
    pub fn start(
        namespace: &Namespace,
        folder: &Path,
        name: &str,
        interface: &str,
        filter: &str,
    ) -> Result<Self> {
        let mut command = namespace.command("tcpdump");
        command.args([
            "-i",
            interface,
            "-nn",
            "-t",
            "-l",
            "--immediate-mode",
            "-Z",
            "root",
            "-c",
            MOST_PACKETS,
        ]);
        command.arg(format!("tcp and ({filter})"));
        let mut process = Spawned::start(name, command, folder)?;
        process.wait_for_line("listening on", START_LIMIT)?;
        Ok(Self { process })
    }

    /// The segments so far, in the order of capture.
    pub fn segments(&self) -> Vec<Segment> {
        segments(&self.process.stdout())
    }

    /// What tcpdump has said so far.
    pub fn text(&self) -> String {
        self.process.stdout()
    }

    /// Waits until a segment is as `wanted` says; `what` names it in an error.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Segment> {
        self.process.wait_until(what, limit, |process| {
            Ok(segments(&process.stdout()).into_iter().find(|segment| wanted(segment)))
        })
    }

    /// Every address that opened a connection to `server`, that is sent it a bare SYN.
    pub fn clients_of(&self, server: SocketAddr) -> BTreeSet<IpAddr> {
        let segments = self.segments().into_iter();
        let opened = segments.filter(|segment| segment.flags == "S" && segment.destination == server);
        opened.map(|segment| segment.source.ip()).collect()
    }
}

/// Where the lines of an access log came from, oldest first. The log holds one JSON object per line, each with the
/// client's address and port in `peer`; `wanted` chooses lines.
pub fn logged_peers(access_log: &Path, wanted: impl Fn(&Value) -> bool) -> Result<Vec<SocketAddr>> {
    let shown = access_log.display();
    let text = fs::read_to_string(access_log).with_context(|| format!("read {shown}"))?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut peers = Vec::new();
    for line in whole.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("parse {shown}: {line}"))?;
        if wanted(&entry) {
            let peer = entry["peer"].as_str().with_context(|| format!("find the peer in {shown}: {line}"))?;
            peers.push(peer.parse().with_context(|| format!("parse the peer in {shown}: {line}"))?);
        }
    }
    Ok(peers)
}

fn segments(text: &str) -> Vec<Segment> {
    text.lines().filter_map(segment).collect()
}

/// Reads `eth0 In  IP 192.0.2.1.4034 > 192.0.2.11.6443: Flags [S], ...`; interface and direction may lack.
fn segment(line: &str) -> Option<Segment> {
    let (before, after) = line.split_once(" > ")?;
    let (destination, rest) = after.split_once(": ")?;
    let flags = rest.strip_prefix("Flags [")?.split_once(']')?.0;
    let source = before.rsplit(' ').next()?;
    Some(Segment { source: endpoint(source)?, destination: endpoint(destination)?, flags: flags.to_owned() })
}

/// tcpdump joins address and port by a dot, in both families.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once('.')?;
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_both_forms_are_read() {
        let text = "eth0  In  IP 192.0.2.1.4034 > 192.0.2.11.6443: Flags [S], seq 1, length 0\n\
                    IP6 2001:db8::11.6443 > 2001:db8::1.4034: Flags [S.], seq 1, ack 2, length 0\n\
                    IP6 fe80::1 > ff02::1: ICMP6, length 8\nIP 192.0.2.1.40";
        let found = segments(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].source, "192.0.2.1:4034".parse().unwrap());
        assert_eq!(found[1].destination, "[2001:db8::1]:4034".parse().unwrap());
        assert_eq!((found[0].flags.as_str(), found[1].flags.as_str()), ("S", "S."));
    }

    #[test]
    fn half_a_line_of_an_access_log_is_left_for_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "{\"peer\":\"192.0.2.1:1\"}\n{\"peer\":\"[2001:db8::1]:2\"}\n{\"peer\":\"19")
            .unwrap();
        let expected = ["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()];
        assert_eq!(logged_peers(&path, |_| true).unwrap(), expected);
        assert!(logged_peers(&path, |_| false).unwrap().is_empty());
    }
}
