//! `apivip status`: queries the daemon of this node through its socket. Without one it shows what the kernel holds.
//!
//! In: the document of `/status`. Out: text, JSON or YAML, once or in a loop.

use std::fmt::Write;
use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::{DEGRADED, FAILING, Failure, OK, print, wants_colour};
use crate::admin::client::{get, is_absent};
use crate::columns::{Cell, Columns};
use crate::config::{OutputArg, StatusArgs};
use crate::model::verdict::Verdict;
use crate::nftables::decode::ObservedTable;
use crate::nftables::names;
use crate::nftables::socket::NftSocket;
use crate::status::Status;
use crate::status::text::{Form, text};

/// The daemon answers at once, or within two seconds if the kernel keeps it waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The interval of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// An empty screen (ECMA-48: ED).
const CLEAR: &str = "\x1b[2J";

/// [`OK`] if all is well, [`DEGRADED`] if the daemon names a problem, [`FAILING`] if it names a critical one.
pub(super) fn status(args: &StatusArgs) -> Result<u8, Failure> {
    if args.metrics {
        return get(&args.run_dir, "/metrics", TIMEOUT)
            .and_then(|body| print(&body))
            .map_err(Failure::Runtime)
            .map(|()| OK);
    }
    if args.watch {
        return watch(args).map_err(Failure::Runtime);
    }
    match query(args) {
        Ok((shown, code)) => print(&shown).map_err(Failure::Runtime).map(|()| code),
        Err(error) => {
            if matches!(args.output, OutputArg::Table | OutputArg::Wide) {
                print(&kernel_text(is_absent(&error))).map_err(Failure::Runtime)?;
            }
            Err(Failure::Runtime(error))
        }
    }
}

/// The daemon may come and go meanwhile.
fn watch(args: &StatusArgs) -> anyhow::Result<u8> {
    let redraws = std::io::stdout().is_terminal();
    if redraws {
        print(CLEAR)?;
    }
    loop {
        let shown = match query(args) {
            Ok((shown, _)) => shown,
            Err(error) => format!("apivip: {error:#}\n"),
        };
        if redraws {
            print(&frame(&shown, window()))?;
        } else {
            print(&shown)?;
        }
        thread::sleep(PERIOD);
    }
}

/// The terminal's size, which may change meanwhile. A terminal that does not say is taken for an endless one.
fn window() -> Window {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let or_endless = |size: u16| if size == 0 { usize::MAX } else { usize::from(size) };
    let (rows, columns) = size.map_or((0, 0), |size| (size.ws_row, size.ws_col));
    Window { rows: or_endless(rows), columns: or_endless(columns) }
}

/// What to print, and the exit code.
fn query(args: &StatusArgs) -> anyhow::Result<(String, u8)> {
    let body = get(&args.run_dir, "/status", TIMEOUT)?;
    let status: Status = serde_json::from_str(&body)
        .context("cannot read the response of the daemon; does it have another version?")?;
    let code = match status.verdict {
        Verdict::Healthy => OK,
        Verdict::Degraded => DEGRADED,
        Verdict::Failing => FAILING,
    };
    let wide = args.output == OutputArg::Wide;
    let shown = match args.output {
        OutputArg::Table | OutputArg::Wide => text(&status, Form { wide, colour: wants_colour() }),
        OutputArg::Json => format!("{body}\n"),
        OutputArg::Yaml => serde_saphyr::to_string(&status).context("write YAML")?,
    };
    Ok((shown, code))
}

/// Some lines for people. `absent`: there is no daemon with this `--run-dir`; else it only did not answer.
pub(super) fn kernel_text(absent: bool) -> String {
    match NftSocket::open().and_then(|mut socket| socket.observe()) {
        Ok(observed) => describe_table(&observed, absent),
        Err(error) => format!("{}, and the table of apivip cannot be read: {error}\n", head(absent)),
    }
}

fn head(absent: bool) -> &'static str {
    if absent { "no daemon answers" } else { "the daemon did not answer" }
}

fn describe_table(observed: &ObservedTable, absent: bool) -> String {
    let head = head(absent);
    if !observed.exists {
        return format!(
            "{head}, and the kernel has no table inet apivip: no rules of apivip redirect to API servers\n"
        );
    }
    let vips = observed.chains.iter().filter_map(|chain| names::frontend(&chain.name));
    let vips: Vec<String> = vips.map(|vip| vip.to_string()).collect();
    let served = if vips.is_empty() { "no virtual IP".to_owned() } else { vips.join(", ") };
    let mut text =
        format!("{head}, but the kernel has table inet apivip, which continues to serve {served}\n");
    match (observed.owner, absent) {
        (Some(port), true) => text.push_str(&format!(
            "netlink port {port} (often a pid) owns the table: does a daemon with another --run-dir run?\n"
        )),
        (None, true) => text.push_str("no daemon probes these API servers\n"),
        (_, false) => {}
    }
    let mut backends: Vec<_> = observed
        .counters
        .iter()
        .filter_map(|(name, count)| names::backend(name).map(|backend| (backend, count.packets)))
        .collect();
    backends.sort_unstable();
    let mut columns = Columns::new(2, false);
    columns.push(["BACKEND", "CONNECTIONS", "NOTE"].map(Cell::from));
    for (backend, connections) in backends {
        let is_dead = observed.dead.contains(&backend);
        let note = if is_dead { "failed, gets no new connections" } else { "" };
        columns.push([backend.to_string(), connections.to_string(), note.to_owned()].map(Cell::from));
    }
    text.push_str(&columns.to_string());
    let resets = observed.counters.iter().filter(|(name, _)| names::reset(name).is_some());
    let resets: u64 = resets.map(|(_, count)| count.packets).sum();
    if resets > 0 {
        text.push_str(&format!("{resets} resets were sent on behalf of failed API servers\n"));
    }
    text
}

/// Home, then, after the text, nothing below it (ECMA-48: CUP, ED).
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_LINE_END: &str = "\x1b[K";
/// The end of any colour (ECMA-48: SGR).
const PLAIN: &str = "\x1b[0m";

/// Rows and columns of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub rows: usize,
    pub columns: usize,
}

/// The sequences and the text that take the place of what a window shows.
pub(super) fn frame(text: &str, window: Window) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = HOME.to_owned();
    let shown = if lines.len() <= window.rows { lines.len() } else { window.rows.saturating_sub(1) };
    for (i, line) in lines[..shown].iter().enumerate() {
        // A line feed in the last row would scroll.
        let feed = if i == 0 { "" } else { "\n" };
        let _ = write!(out, "{feed}{}{CLEAR_LINE_END}", cut(line, window.columns));
    }
    let hidden = lines.len() - shown;
    if hidden > 0 {
        let _ = write!(out, "\n{}{CLEAR_LINE_END}", cut(&format!("... {hidden} more lines"), window.columns));
    }
    out + CLEAR_BELOW
}

/// The beginning of a line. Sequences of colour have no width.
fn cut(line: &str, columns: usize) -> String {
    let mut out = String::new();
    let (mut width, mut in_sequence) = (0, false);
    for character in line.chars() {
        if character == '\x1b' || in_sequence {
            in_sequence = character != 'm';
        } else if width == columns {
            return out + PLAIN;
        } else {
            width += 1;
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    mod kernel {
        use super::super::*;
        use crate::nftables::decode::{Count, ObservedChain};

        #[test]
        fn text_shows_addresses_and_no_chain_names() {
            let chains = ["nat-output", "vip-10.96.0.1-443", "vip-fd00_10_96__1-443", "dead-10.96.0.1-443"];
            let chain = |name: &str| ObservedChain { name: name.to_owned(), base: None };
            let counters = [
                ("backend-192.0.2.11-6443", 12),
                ("backend-192.0.2.9-6443", 5),
                ("backend-2001_db8__b-6443", 7),
                ("reset-10.96.0.1-443", 2),
                ("reset-fd00_10_96__1-443", 1),
                ("somebody-else", 1),
            ];
            let counter =
                |(name, packets): (&str, u64)| (name.to_owned(), Count { packets, bytes: 60 * packets });
            let observed = ObservedTable {
                exists: true,
                chains: chains.map(chain).into(),
                counters: counters.map(counter).into(),
                dead: ["192.0.2.11:6443".parse().unwrap()].into(),
                ..ObservedTable::default()
            };
            let expected = [
                "no daemon answers, but the kernel has table inet apivip, which continues to serve 10.96.0.1:443, [fd00:10:96::1]:443",
                "no daemon probes these API servers",
                "  BACKEND              CONNECTIONS   NOTE",
                "  192.0.2.9:6443       5",
                "  192.0.2.11:6443      12            failed, gets no new connections",
                "  [2001:db8::b]:6443   7",
                "3 resets were sent on behalf of failed API servers",
                "",
            ];
            assert_eq!(describe_table(&observed, true), expected.join("\n"));
            // Where nothing is known of a daemon, nothing is said of what it does.
            let hangs = describe_table(&observed, false);
            assert!(
                hangs.starts_with("the daemon did not answer, but") && !hangs.contains("no daemon probes"),
                "{hangs}"
            );
            let elsewhere = describe_table(&ObservedTable { owner: Some(7), ..observed }, true);
            assert!(
                elsewhere.contains("netlink port 7") && !elsewhere.contains("no daemon probes"),
                "{elsewhere}"
            );
            let nothing = describe_table(&ObservedTable::default(), false);
            assert!(nothing.contains("no table inet apivip: no rules of apivip"), "{nothing}");
        }
    }

    mod screen {
        use super::super::*;

        #[test]
        fn fitting_text_is_shown_whole_and_does_not_scroll() {
            let shown = frame("one\ntwo\n", Window { rows: 2, columns: 3 });
            assert_eq!(shown, "\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J");
        }

        #[test]
        fn text_larger_than_the_window_is_cut() {
            let shown = frame("one\n\x1b[31mtwo\x1b[0m\nthree\nfour\n", Window { rows: 3, columns: 2 });
            assert_eq!(shown, "\x1b[Hon\x1b[0m\x1b[K\n\x1b[31mtw\x1b[0m\x1b[K\n..\x1b[0m\x1b[K\x1b[J");
            let shown = frame("1\n2\n3\n4\n", Window { rows: 3, columns: 80 });
            assert_eq!(shown, "\x1b[H1\x1b[K\n2\x1b[K\n... 2 more lines\x1b[K\x1b[J");
        }
    }
}
