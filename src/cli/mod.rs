//! The commands, one file each, and what both programs share: exit codes and the one-line form of errors.

#[cfg(feature = "audit")]
pub mod audit;
mod check;
mod manifest;
pub mod render;
mod run;
mod status;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Parser};

use crate::columns;
use crate::config::{Cli, Command};
use crate::process::log;

/// Everything went well.
pub const OK: u8 = 0;
/// Something failed at run time.
pub const FAILED: u8 = 1;
/// Bad usage or configuration; nothing was touched.
pub const MISUSED: u8 = 2;
/// The command did its work, and found something that an operator should look after: `status` a problem, `check` something
/// that fails, or with `--strict` a warning.
pub const DEGRADED: u8 = 3;
/// `status` found a critical problem.
pub const FAILING: u8 = 4;

/// How a command fails.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Runtime(anyhow::Error),
    /// Exit code 2.
    Configuration(anyhow::Error),
}

impl Failure {
    /// A failure at run time.
    pub fn runtime(error: impl Into<anyhow::Error>) -> Self {
        Self::Runtime(error.into())
    }

    /// Bad usage or configuration.
    pub fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(error.into())
    }
}

/// Runs a check or an audit to its end.
fn block_on<F: Future>(observe_and_judge: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .context("start the runtime")
        .map_err(Failure::Runtime)?;
    let report = runtime.block_on(observe_and_judge);
    // Nothing that hangs must delay the end.
    runtime.shutdown_background();
    Ok(report)
}

/// The program `apivip`.
pub fn main() -> ExitCode {
    run_program("apivip", |cli: Cli, matches| match cli.command {
        Command::Run(args) => run::run(*args).map(|()| OK),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
        Command::Render(args) => render::render(&args).map(|()| OK),
        Command::Manifest(args) => manifest::manifest(&args, matches).map(|()| OK),
        Command::Cleanup(args) => run::cleanup(&args).map(|()| OK),
    })
}

/// Parses the command line of the program `name`, runs what it asks for and reports a failure on stderr.
fn run_program<C: Parser>(name: &str, run: impl FnOnce(C, &ArgMatches) -> Result<u8, Failure>) -> ExitCode {
    let parsed =
        C::command().try_get_matches().and_then(|matches| Ok((C::from_arg_matches(&matches)?, matches)));
    let outcome = match parsed {
        Ok((command_line, matches)) => run(command_line, &matches),
        Err(error) => return ExitCode::from(usage(name, &error)),
    };
    ExitCode::from(match outcome {
        Ok(code) => {
            log::flush();
            code
        }
        Err(Failure::Runtime(error)) => report(name, &error, FAILED),
        Err(Failure::Configuration(error)) => report(name, &error, MISUSED),
    })
}

/// Whether stdout is to be coloured.
fn wants_colour() -> bool {
    columns::wants_colour(std::io::stdout().is_terminal())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

fn report(name: &str, error: &anyhow::Error, code: u8) -> u8 {
    log::fatal(&format!("{name}: {}", one_line(&format!("{error:#}"))));
    code
}

/// Help and version are answers; anything else is reduced to its first sentence.
fn usage(name: &str, error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print!("{error}");
            OK
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprintln!("{name}: no command given; see {name} --help");
            MISUSED
        }
        _ => {
            let text = error.to_string();
            let said = text.split("\n\n").next().unwrap_or_default();
            let said = said.strip_prefix("error: ").unwrap_or(said);
            eprintln!("{name}: {}; {}", one_line(said), hint(name, error));
            MISUSED
        }
    }
}

/// Where to look after bad usage.
fn hint(name: &str, error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(command)) if command == "audit" => {
            "run the program apivip-audit".to_owned()
        }
        _ => format!("see {name} --help"),
    }
}

/// Joins the lines of a message, so that each error is one line in a log.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
