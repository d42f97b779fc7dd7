use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::proxy::direction::{Direction, Stop, Wire};
use crate::proxy::readiness::Events;

/// A message is shorter.
const LONG: usize = 64;
/// Longer than all messages together, so that they are copied even where many wait.
const ROOM: usize = 40 * LONG;

/// What the kernel does at a write.
#[derive(Clone, Copy, Debug)]
enum Whim {
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
    whims: VecDeque<Whim>,
    blocked: bool,
}

impl Write for &mut Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.whims.pop_front().unwrap_or(Whim::Take(ROOM)) {
            Whim::Take(most) => {
                let count = most.min(bytes.len());
                self.taken.extend(&bytes[..count]);
                Ok(count)
            }
            Whim::Block => {
                self.blocked = true;
                Err(ErrorKind::WouldBlock.into())
            }
            Whim::Interrupt => Err(ErrorKind::Interrupted.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Copied {
    vessel: Vessel,
    pool: Pool,
    source: Source,
    sink: Sink,
    source_ready: Ready,
    sink_ready: Ready,
    counted: usize,
    shut: bool,
}

impl Wire for Copied {
    fn is_source_ready(&self) -> bool {
        self.source_ready.is_readable()
    }

    fn is_sink_ready(&self) -> bool {
        self.vessel.is_ahead() || self.sink_ready.is_writable()
    }

    fn take_pipe(&mut self) -> bool {
        self.vessel.prepare(&self.pool, true) && self.vessel.copies()
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        let Self { vessel, source, sink, source_ready, sink_ready, .. } = self;
        vessel.copy((source, source_ready), (sink, sink_ready), &mut [0; ROOM])
    }

    fn splice_out(&mut self, _: usize) -> io::Result<usize> {
        let count = match self.vessel.take_ahead() {
            Some(count) => count,
            None => {
                let drained = self.vessel.drain_rest(&mut self.sink);
                self.sink_ready.learn_write(&drained);
                drained?
            }
        };
        self.counted += count;
        Ok(count)
    }

    fn shut_sink(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }

    fn release_pipe(&mut self) {
        assert!(self.vessel.rest.is_empty(), "nothing is dropped");
        self.vessel.release(&self.pool);
    }
}

fn whims() -> impl Strategy<Value = VecDeque<Whim>> {
    let whim =
        prop_oneof![6 => (1..LONG).prop_map(Whim::Take), 3 => Just(Whim::Block), 2 => Just(Whim::Interrupt)];
    prop::collection::vec(whim, 0..80).prop_map(VecDeque::from)
}

proptest! {
    /// The kernel tells of what arrives once, and of room once after it refused: a message that is thought to be read, and
    /// is not, would wait for ever.
    #[test]
    fn every_message_arrives_in_order_though_it_is_told_of_once(
        messages in prop::collection::vec(1..LONG, 0..40),
        ends: bool,
        whims in whims(),
        interrupts in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let mut wire = Copied::default();
        (wire.sink.whims, wire.source.interrupts) = (whims, interrupts.into());
        let mut direction = Direction::default();
        let mut all = Vec::new();
        let writable = Events { writable: true, ..Events::default() };
        wire.sink_ready.hear(writable);
        let last = messages.len();
        let mut over = false;
        let steps = messages.iter().map(Some).chain([None]).chain((0..400).map(|_| None)).enumerate();
        for (step, message) in steps {
            if let Some(&length) = message {
                let bytes: Vec<u8> = (all.len()..all.len() + length).map(|n| (n % 251) as u8).collect();
                wire.source.arrived.extend(&bytes);
                all.extend(bytes);
                wire.source_ready.hear(Events { readable: true, ..Events::default() });
            } else if ends && step == last {
                wire.source.ended = true;
                wire.source_ready.hear(Events { readable: true, closed: true, ..Events::default() });
            }
            if std::mem::take(&mut wire.sink.blocked) {
                wire.sink_ready.hear(writable);
            }
            let stop = direction.advance(&mut wire).unwrap();
            prop_assert_ne!(stop, Stop::Starves);
            over |= stop == Stop::Ended;
        }
        prop_assert_eq!(&wire.sink.taken, &all);
        prop_assert_eq!(wire.counted, all.len());
        prop_assert_eq!(over, ends);
        prop_assert_eq!(wire.shut, ends);
    }
}
