//! Logging: one line for each event, to stderr.

use std::io::IsTerminal;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log-level` is no filter.
    #[error(
        "--log-level {filter}: expected error, warn, info, debug, trace or a filter such as apivip=debug"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why it does not parse.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Starts logging for the rest of the process's life. Later calls in the same process change nothing.
pub fn start(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let parsed: Targets =
        filter.parse().map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Only a test that starts two daemons in one process gets here twice.
    let _ = tracing_subscriber::registry().with(lines.with_filter(parsed)).try_init();
    Ok(())
}
