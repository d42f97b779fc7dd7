//! `apivip status`: asks the daemon of this node through its socket. Without one it shows what the kernel holds.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::{DEGRADED, Failure, OK};
use crate::columns;
use crate::config::{OutputArg, StatusArgs};
use crate::status::Status;
use crate::status::text::{Form, text};

mod ask;
mod kernel;
mod screen;

pub(super) use ask::ask;
use screen::{Window, frame};

/// The daemon answers at once, or within two seconds if the kernel keeps it waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// An empty screen (ECMA-48: ED).
const CLEAR: &str = "\x1b[2J";

/// [`OK`] if all is well, [`DEGRADED`] if the daemon names a problem.
pub(super) fn status(args: &StatusArgs) -> Result<u8, Failure> {
    if args.metrics {
        return ask(&args.run_dir, "/metrics", TIMEOUT)
            .and_then(|body| print(&body))
            .map_err(Failure::Runtime)
            .map(|()| OK);
    }
    if args.watch {
        return watch(args).map_err(Failure::Runtime);
    }
    match look(args) {
        Ok((shown, code)) => print(&shown).map_err(Failure::Runtime).map(|()| code),
        Err(error) => {
            if matches!(args.output, OutputArg::Table | OutputArg::Wide) {
                print(&kernel::text(ask::is_absent(&error))).map_err(Failure::Runtime)?;
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
        let shown = match look(args) {
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
fn look(args: &StatusArgs) -> anyhow::Result<(String, u8)> {
    let body = ask(&args.run_dir, "/status", TIMEOUT)?;
    let status: Status =
        serde_json::from_str(&body).context("read the daemon's answer; is it of another version?")?;
    let code = if status.problems.is_empty() { OK } else { DEGRADED };
    let wide = args.output == OutputArg::Wide;
    let shown = match args.output {
        OutputArg::Table | OutputArg::Wide => text(&status, Form { wide, colour: wants_colour() }),
        OutputArg::Json => format!("{body}\n"),
        OutputArg::Yaml => serde_saphyr::to_string(&status).context("write YAML")?,
    };
    Ok((shown, code))
}

/// Whether what is printed is in colour.
pub(super) fn wants_colour() -> bool {
    columns::wants_colour(std::io::stdout().is_terminal())
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}
