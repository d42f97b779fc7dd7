//! Lines on their way to the log. Whoever says something does not wait until somebody reads it: a log that nobody reads must not
//! stop the daemon.
//!
//! In: lines. Out: the same to a stream, from a thread of its own. While the stream takes none, [`LINES`] wait, more are dropped,
//! and how many that were is told in the log once it takes some again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The daemon says less than that in an hour of failures; with lines of 200 bytes, 200 KiB.
const LINES: usize = 1024;
/// A thread's stack: it only writes.
const STACK: usize = 128 << 10;

enum Item {
    Line(Vec<u8>),
    /// Everything before was written: tell so here.
    Written(std::sync::mpsc::Sender<()>),
}

/// Takes lines, and never waits. Clones share the queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the thread that writes to `stream`. `told` is called there with the number of lines that were dropped, once lines are
    /// taken again.
    pub fn start(
        stream: impl Write + Send + 'static,
        told: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (items, inbox) = sync_channel(LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK)
            .spawn(move || write(stream, &inbox, &lost, told))?;
        Ok(Self { items, dropped })
    }

    /// One line, with its end.
    pub fn push(&self, line: &[u8]) {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything so far was written, or for so long. Returns whether it was.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, written) = channel();
        let pause = Duration::from_millis(10);
        let mut left = limit;
        let mut item = Item::Written(done);
        // A queue that is full gets room if somebody reads.
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

fn write(mut stream: impl Write, inbox: &Receiver<Item>, dropped: &AtomicU64, told: impl Fn(u64)) {
    for item in inbox {
        match item {
            // Where a line cannot be written, nobody can be told either.
            Item::Line(line) => drop(stream.write_all(&line).and_then(|()| stream.flush())),
            // The asker may have given up.
            Item::Written(done) => drop(done.send(())),
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => told(count),
        }
    }
}

/// What is said in one event is one line.
impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, text: Vec::new() }
    }
}

/// A line that is being written. It goes to the queue as a whole.
pub(super) struct Line<'a> {
    queue: &'a Queue,
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

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn lines_come_in_their_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let queue = Queue::start(ours, |count| panic!("{count} dropped")).unwrap();
        for word in ["one", "two"] {
            write!(queue.make_writer(), "{word} ").unwrap();
        }
        assert!(queue.flush(LIMIT));
        let mut text = [0; 8];
        theirs.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one two ");
    }

    #[test]
    fn a_stream_that_nobody_reads_stops_nobody_and_what_was_dropped_is_told_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lost = Arc::new(Mutex::new(0));
        let told = Arc::clone(&lost);
        let queue = Queue::start(ours, move |count| *told.lock().unwrap() += count).unwrap();
        let line = [b'x'; 1000];
        let begin = Instant::now();
        let many = 10_000;
        (0..many).for_each(|_| queue.push(&line));
        assert!(begin.elapsed() < LIMIT);
        assert!(!queue.flush(Duration::from_millis(50)), "nobody reads");
        // Some were told while the stream still took lines.
        let dropped = queue.dropped.load(Ordering::Relaxed) + *lost.lock().unwrap();
        assert!(dropped > 5000, "{dropped}");
        // Somebody reads again: what waits is written, and nothing else is lost.
        let kept = usize::try_from(many - dropped).unwrap() * line.len();
        let reader = thread::spawn(move || theirs.read_exact(&mut vec![0; kept]));
        assert!(queue.flush(LIMIT));
        reader.join().unwrap().unwrap();
        queue.push(b"");
        assert!(queue.flush(LIMIT));
        assert_eq!(*lost.lock().unwrap(), dropped);
    }

    #[test]
    fn a_stream_that_is_closed_stops_nobody() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let queue = Queue::start(ours, |_| {}).unwrap();
        (0..3000).for_each(|_| queue.push(b"line\n"));
        assert!(queue.flush(LIMIT));
    }
}
