use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A message is shorter.
const LONG: usize = 64;
/// Longer than all messages together, so that they are copied even where many wait.
const ROOM: usize = 40 * LONG;

/// What the kernel does at a write.
#[derive(Clone, Copy, Debug)]
enum WriteResult {
    /// Takes at most so many.
    Take(usize),
    Block,
    Interrupt,
}

/// A source that has what arrived, all of it, or its end.
#[derive(Default)]
struct Source {
    arrived: VecDeque<u8>,
    ended: bool,
    interrupts: VecDeque<bool>,
}

impl Read for &mut Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.interrupts.pop_front() == Some(true) {
            return Err(ErrorKind::Interrupted.into());
        }
        if self.arrived.is_empty() && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.arrived.read(buffer)
    }
}

#[derive(Default)]
struct Sink {
    taken: Vec<u8>,
    results: VecDeque<WriteResult>,
    blocked: bool,
}

impl Write for &mut Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.results.pop_front().unwrap_or(WriteResult::Take(ROOM)) {
            WriteResult::Take(most) => {
                let count = most.min(bytes.len());
                self.taken.extend(&bytes[..count]);
                Ok(count)
            }
            WriteResult::Block => {
                self.blocked = true;
                Err(ErrorKind::WouldBlock.into())
            }
            WriteResult::Interrupt => Err(ErrorKind::Interrupted.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Copied {
    buffer: SpliceBuffer,
    pipes: PipePool,
    source: Source,
    sink: Sink,
    source_ready: Readiness,
    sink_ready: Readiness,
    counted: usize,
    shut: bool,
}

impl SpliceIo for Copied {
    fn is_source_ready(&self) -> bool {
        self.source_ready.is_readable()
    }

    fn is_sink_ready(&self) -> bool {
        self.buffer.has_uncounted() || self.sink_ready.is_writable()
    }

    fn acquire_pipe(&mut self) -> bool {
        self.buffer.prepare(&self.pipes, true) && self.buffer.will_copy()
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        let Self { buffer, source, sink, source_ready, sink_ready, .. } = self;
        buffer.copy((source, source_ready), (sink, sink_ready), &mut [0; ROOM])
    }

    fn splice_out(&mut self, _: usize) -> io::Result<usize> {
        let count = match self.buffer.take_uncounted() {
            Some(count) => count,
            None => {
                let drained = self.buffer.drain_unsent(&mut self.sink);
                self.sink_ready.on_write(&drained);
                drained?
            }
        };
        self.counted += count;
        Ok(count)
    }

    fn shutdown_sink(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }

    fn release_pipe(&mut self) {
        assert!(self.buffer.unsent.is_empty(), "nothing is dropped");
        self.buffer.release(&self.pipes);
    }
}

fn results() -> impl Strategy<Value = VecDeque<WriteResult>> {
    let result = prop_oneof![6 => (1..LONG).prop_map(WriteResult::Take), 3 => Just(WriteResult::Block), 2 => Just(WriteResult::Interrupt)];
    prop::collection::vec(result, 0..80).prop_map(VecDeque::from)
}

proptest! {
    /// The kernel reports bytes that arrive once, and writability once after `WouldBlock`: a message that is taken for read
    /// and is not would wait for ever.
    #[test]
    fn messages_arrive_in_order_with_one_event_each(
        messages in prop::collection::vec(1..LONG, 0..40),
        ends: bool,
        results in results(),
        interrupts in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let mut splice_io = Copied::default();
        (splice_io.sink.results, splice_io.source.interrupts) = (results, interrupts.into());
        let mut half = HalfDuplex::default();
        let mut all = Vec::new();
        let writable = SocketEvents { writable: true, ..SocketEvents::default() };
        splice_io.sink_ready.on_event(writable);
        let last = messages.len();
        let mut over = false;
        let steps = messages.iter().map(Some).chain([None]).chain((0..400).map(|_| None)).enumerate();
        for (step, message) in steps {
            if let Some(&length) = message {
                let bytes: Vec<u8> = (all.len()..all.len() + length).map(|n| (n % 251) as u8).collect();
                splice_io.source.arrived.extend(&bytes);
                all.extend(bytes);
                splice_io.source_ready.on_event(SocketEvents { readable: true, ..SocketEvents::default() });
            } else if ends && step == last {
                splice_io.source.ended = true;
                splice_io.source_ready.on_event(SocketEvents { readable: true, closed: true, ..SocketEvents::default() });
            }
            if std::mem::take(&mut splice_io.sink.blocked) {
                splice_io.sink_ready.on_event(writable);
            }
            let stop = half.advance(&mut splice_io).unwrap();
            prop_assert_ne!(stop, Progress::NoPipe);
            over |= stop == Progress::Finished;
        }
        prop_assert_eq!(&splice_io.sink.taken, &all);
        prop_assert_eq!(splice_io.counted, all.len());
        prop_assert_eq!(over, ends);
        prop_assert_eq!(splice_io.shut, ends);
    }
}
