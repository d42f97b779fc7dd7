//! `apivip status`: asks the daemon of this node through its socket. Without one it shows what the kernel holds.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::{DEGRADED, Failure, OK};
use crate::config::{OutputArg, StatusArgs};
use crate::status::Status;
use crate::status::text::{Form, text};

mod ask;
mod kernel;

pub(super) use ask::ask;

/// The daemon answers at once, or within two seconds if the kernel keeps it waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Home, then, after the text, nothing below it (ECMA-48: CUP, ED).
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";
const CLEAR_LINE_END: &str = "\x1b[K";

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
                print(&kernel::text()).map_err(Failure::Runtime)?;
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
            let lines: String = shown.lines().map(|line| format!("{line}{CLEAR_LINE_END}\n")).collect();
            print(&format!("{HOME}{lines}{CLEAR_BELOW}"))?;
        } else {
            print(&shown)?;
        }
        thread::sleep(PERIOD);
    }
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

/// Only for eyes: <https://no-color.org>.
pub(super) fn wants_colour() -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !says_no && !is_dumb
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}
