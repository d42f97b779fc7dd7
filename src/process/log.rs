//! Logging: one line for each event, to stderr. If that is systemd's journal, each line begins with its priority.
//!
//! In: events of `tracing`. Out: lines, from a thread of its own through `LogQueue`. Only the end of the process waits for lines
//! to be written.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::columns::wants_colour;
use crate::config::LogFormat;

/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Set when logging has started.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Device and inode of the journal's socket, in decimal, with a colon between: systemd.exec(5).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
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
    /// The thread could not be started.
    #[error("start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// Starts logging for the rest of the process's life. Later calls in the same process change nothing.
pub fn start(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let parsed = self::filter(filter)?;
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

/// What `--log-level` says.
pub fn filter(text: &str) -> Result<Targets, LogError> {
    text.parse().map_err(|source| LogError::Filter { filter: text.to_owned(), source })
}

fn queue() -> Result<LogQueue, LogError> {
    if let Some(queue) = QUEUE.get() {
        return Ok(queue.clone());
    }
    let dropped = |lines| {
        tracing::warn!(
            event = %"log_lines_dropped", lines,
            "Dropped log lines, the log was not read in time"
        );
    };
    let started = LogQueue::start(io::stderr(), dropped).map_err(LogError::Thread)?;
    Ok(QUEUE.get_or_init(|| started).clone())
}

/// Writes the last line of a process that fails, behind all others.
pub fn fatal(text: &str) {
    let line = format!("{}{text}\n", if is_journal() { "<3>" } else { "" });
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        None => eprint!("{line}"),
    }
    flush();
}

/// Waits for the lines so far to be written, for `LAST_LINES` at most.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_LINES);
    }
}

fn is_journal() -> bool {
    let named = std::env::var(JOURNAL_STREAM).unwrap_or_default();
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    // An inherited variable does not apply to a stderr that was redirected.
    stderr.is_ok_and(|stderr| names(&named, stderr.dev(), stderr.ino()))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    let parsed = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    parsed == Some((Ok(device), Ok(inode)))
}

/// A line with the prefix of sd-daemon(3), and without the time, which the journal adds.
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

/// More lines than the daemon logs in an hour of failures; with lines of 200 bytes, 200 KiB.
const QUEUE_LINES: usize = 1024;
/// A thread's stack: it only writes.
const STACK: usize = 128 << 10;

enum Item {
    Line(Vec<u8>),
    /// Reports here that everything before was written.
    Flush(std::sync::mpsc::Sender<()>),
}

/// Lines on their way to a stream. Adding one never waits: a log that nobody reads must not stop the daemon. While the stream is
/// blocked, [`QUEUE_LINES`] wait, more are dropped, and their number is logged when it accepts lines again. Clones share the
/// queue.
#[derive(Clone, Debug)]
struct LogQueue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl LogQueue {
    /// Starts the thread that writes to `stream`. It calls `on_dropped` with the number of lines that were dropped, once the stream
    /// accepts lines again.
    fn start(
        stream: impl Write + Send + 'static,
        on_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (items, inbox) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK)
            .spawn(move || write_lines(stream, &inbox, &lost, on_dropped))?;
        Ok(Self { items, dropped })
    }

    /// One line, with its newline.
    fn push(&self, line: &[u8]) {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything so far was written, for `limit` at most. Returns whether it was.
    fn flush(&self, limit: Duration) -> bool {
        let (done, written) = channel();
        let pause = Duration::from_millis(10);
        let mut left = limit;
        let mut item = Item::Flush(done);
        // A full queue gets room when the stream is read.
        while let Err(TrySendError::Full(back)) = self.items.try_send(item) {
            if left.is_zero() {
                return false;
            }
            thread::sleep(pause);
            left = left.saturating_sub(pause);
            item = back;
        }
        // Disconnected: the sender went with the item.
        !matches!(written.recv_timeout(left), Err(RecvTimeoutError::Timeout))
    }
}

fn write_lines(
    mut stream: impl Write,
    inbox: &Receiver<Item>,
    dropped: &AtomicU64,
    on_dropped: impl Fn(u64),
) {
    for item in inbox {
        match item {
            // If a line cannot be written, that cannot be logged either.
            Item::Line(line) => drop(stream.write_all(&line).and_then(|()| stream.flush())),
            // The receiver may be gone.
            Item::Flush(done) => drop(done.send(())),
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => on_dropped(count),
        }
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, text: Vec::new() }
    }
}

/// The line of one event. It goes to the queue as a whole.
struct Line<'a> {
    queue: &'a LogQueue,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.queue.push(&self.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_the_named_stream_is_the_journal() {
        assert!(names("8:4711", 8, 4711));
        for other in ["", "8", "8:", ":4711", "8:4712", "9:4711", "8:4711:1", "8:x", "0x8:4711"] {
            assert!(!names(other, 8, 4711), "{other:?}");
        }
    }

    #[test]
    fn journal_line_begins_with_its_priority_and_has_no_time() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(prioritised());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(event = %"rules_failed", "Failed");
            tracing::warn!(event = %"drift_repaired", by = "nft", "Restored");
            tracing::info!(event = %"rules_programmed", frontends = 2, "Programmed");
            tracing::debug!("Small");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected = [
            "<3>ERROR apivip::process::log::tests: Failed event=rules_failed",
            "<4> WARN apivip::process::log::tests: Restored event=drift_repaired by=\"nft\"",
            "<6> INFO apivip::process::log::tests: Programmed event=rules_programmed frontends=2",
            "<7>DEBUG apivip::process::log::tests: Small",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn event_is_a_member_of_a_json_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer =
            tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).json().flatten_event(true);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(event = %"drift_repaired", by = "nft", "Restored");
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        for (key, value) in [("event", "drift_repaired"), ("by", "nft"), ("message", "Restored")] {
            assert_eq!(line[key], value, "{line}");
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn queued_lines_are_written_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let queue = LogQueue::start(ours, |count| panic!("{count} dropped")).unwrap();
        for word in ["one", "two"] {
            write!(queue.make_writer(), "{word} ").unwrap();
        }
        assert!(queue.flush(LIMIT));
        let mut text = [0; 8];
        theirs.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one two ");
    }

    #[test]
    fn blocked_stream_drops_lines_without_waiting_and_reports_their_number_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lost = Arc::new(Mutex::new(0));
        let reported = Arc::clone(&lost);
        let queue = LogQueue::start(ours, move |count| *reported.lock().unwrap() += count).unwrap();
        let line = [b'x'; 1000];
        let begin = Instant::now();
        let many = 10_000;
        (0..many).for_each(|_| queue.push(&line));
        assert!(begin.elapsed() < LIMIT);
        assert!(!queue.flush(Duration::from_millis(50)), "it is not read");
        // Some were reported while the stream still took lines.
        let dropped = queue.dropped.load(Ordering::Relaxed) + *lost.lock().unwrap();
        assert!(dropped > 5000, "{dropped}");
        // It is read again: what waits is written, and nothing else is lost.
        let kept = usize::try_from(many - dropped).unwrap() * line.len();
        let reader = thread::spawn(move || theirs.read_exact(&mut vec![0; kept]));
        assert!(queue.flush(LIMIT));
        reader.join().unwrap().unwrap();
        queue.push(b"");
        assert!(queue.flush(LIMIT));
        assert_eq!(*lost.lock().unwrap(), dropped);
    }

    #[test]
    fn closed_stream_does_not_block() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let queue = LogQueue::start(ours, |_| {}).unwrap();
        (0..3000).for_each(|_| queue.push(b"line\n"));
        assert!(queue.flush(LIMIT));
    }
}
