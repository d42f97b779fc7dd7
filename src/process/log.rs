//! Logging: one line for each event, to stderr. Where that leads to systemd's journal, the priority goes before the text. Nobody
//! waits for a line to be written, but the end of the process for its last ones.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::columns::wants_colour;
use crate::config::LogFormat;

mod queue;

use queue::Queue;

/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines go once logging has started.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Names device and inode of what leads to the journal, in decimal, with a colon between: systemd.exec(5).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

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
    /// There is no thread for it.
    #[error("start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// Starts logging for the rest of the process's life. Later calls in the same process change nothing.
pub fn start(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let parsed: Targets =
        filter.parse().map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let queue = queue()?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(queue)
        .with_ansi(wants_colour(io::stderr().is_terminal()));
    let lines = match format {
        LogFormat::Text if is_journal() => lines.with_ansi(false).event_format(prioritised()).boxed(),
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Only a test that starts two daemons in one process gets here twice.
    let _ = tracing_subscriber::registry().with(lines.with_filter(parsed)).try_init();
    Ok(())
}

fn queue() -> Result<Queue, TelemetryError> {
    if let Some(queue) = QUEUE.get() {
        return Ok(queue.clone());
    }
    let dropped = |lines| tracing::warn!(lines, "the log was not read in time: lines were dropped");
    let started = Queue::start(io::stderr(), dropped).map_err(TelemetryError::Thread)?;
    Ok(QUEUE.get_or_init(|| started).clone())
}

/// Writes a line that tells of the end of the process, behind all others.
pub fn fatal(text: &str) {
    let line = format!("{}{text}\n", if is_journal() { "<3>" } else { "" });
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        None => eprint!("{line}"),
    }
    flush();
}

/// Waits a moment for what was said to be written.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_LINES);
    }
}

fn is_journal() -> bool {
    let named = std::env::var(JOURNAL_STREAM).unwrap_or_default();
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    // A variable that was inherited says nothing of a stderr that leads elsewhere.
    stderr.is_ok_and(|stderr| names(&named, stderr.dev(), stderr.ino()))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    let parsed = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    parsed == Some((Ok(device), Ok(inode)))
}

/// A line as the journal wants it: sd-daemon(3). It knows the time itself.
struct Prioritised<F>(F);

fn prioritised() -> Prioritised<Format<tracing_subscriber::fmt::format::Full, ()>> {
    Prioritised(tracing_subscriber::fmt::format().without_time())
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As syslog(3) counts them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(names("8:4711", 8, 4711));
        for other in ["", "8", "8:", ":4711", "8:4712", "9:4711", "8:4711:1", "8:x", "0x8:4711"] {
            assert!(!names(other, 8, 4711), "{other:?}");
        }
    }

    #[test]
    fn a_line_begins_with_its_priority_and_has_no_time() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(prioritised());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!("broken");
            tracing::warn!(by = "nft", "changed");
            tracing::info!("told");
            tracing::debug!("small");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected = [
            "<3>ERROR apivip::telemetry::tests: broken",
            "<4> WARN apivip::telemetry::tests: changed by=\"nft\"",
            "<6> INFO apivip::telemetry::tests: told",
            "<7>DEBUG apivip::telemetry::tests: small",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
