use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What the kernel does at a call.
#[derive(Clone, Copy, Debug)]
enum Whim {
    /// Moves at most so many.
    Move(usize),
    Block,
    Interrupt,
    Fail,
}

/// A source with bytes, a pipe, and a sink, whose whims run out: then everything goes well.
#[derive(Debug, Default)]
struct Fake {
    source: VecDeque<u8>,
    source_ends: bool,
    pipe: Option<VecDeque<u8>>,
    sink: Vec<u8>,
    shut: bool,
    whims_in: VecDeque<Whim>,
    whims_out: VecDeque<Whim>,
    /// So many times there is no pipe.
    no_pipe: usize,
    source_ready: bool,
    sink_ready: bool,
    failed: bool,
    most_held: usize,
}

const CAPACITY: usize = 64;

impl Fake {
    fn whim(whims: &mut VecDeque<Whim>, failed: &mut bool) -> io::Result<usize> {
        match whims.pop_front().unwrap_or(Whim::Move(CAPACITY)) {
            Whim::Move(most) => Ok(most),
            Whim::Block => Err(ErrorKind::WouldBlock.into()),
            Whim::Interrupt => Err(ErrorKind::Interrupted.into()),
            Whim::Fail => {
                *failed = true;
                Err(ErrorKind::ConnectionReset.into())
            }
        }
    }

    fn pipe(&mut self) -> &mut VecDeque<u8> {
        self.pipe.as_mut().expect("has a pipe when it splices")
    }
}

/// Readiness as the runtime has it: cleared by `WouldBlock` alone, set again before the next tick.
impl Wire for Fake {
    fn is_source_ready(&self) -> bool {
        self.source_ready
    }

    fn is_sink_ready(&self) -> bool {
        self.sink_ready
    }

    fn take_pipe(&mut self) -> bool {
        if self.pipe.is_none() && self.no_pipe > 0 {
            self.no_pipe -= 1;
            return false;
        }
        self.pipe.get_or_insert_default();
        true
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        assert!(self.pipe().is_empty(), "fills only an empty pipe");
        let most = Self::whim(&mut self.whims_in, &mut self.failed);
        let blocked = self.source.is_empty() && !self.source_ends;
        let result = if blocked { most.and(Err(ErrorKind::WouldBlock.into())) } else { most };
        self.source_ready &= !matches!(&result, Err(e) if e.kind() == ErrorKind::WouldBlock);
        let count = result?.clamp(1, CAPACITY).min(self.source.len());
        let bytes: Vec<u8> = self.source.drain(..count).collect();
        self.pipe().extend(bytes);
        self.most_held = self.most_held.max(count);
        Ok(count)
    }

    fn splice_out(&mut self, held: usize) -> io::Result<usize> {
        assert_eq!(self.pipe().len(), held, "knows what the pipe holds");
        assert!(!self.shut, "writes nothing after the end");
        let result = Self::whim(&mut self.whims_out, &mut self.failed);
        self.sink_ready &= !matches!(&result, Err(e) if e.kind() == ErrorKind::WouldBlock);
        let count = result?.clamp(1, held);
        let bytes: Vec<u8> = self.pipe().drain(..count).collect();
        self.sink.extend(bytes);
        Ok(count)
    }

    fn shut_sink(&mut self) -> io::Result<()> {
        assert!(!self.shut, "ends once");
        self.shut = true;
        Ok(())
    }

    fn release_pipe(&mut self) {
        let pipe = self.pipe.take();
        assert!(pipe.is_none_or(|pipe| pipe.is_empty()), "gives back only an empty pipe");
    }
}

fn whim() -> impl Strategy<Value = Whim> {
    prop_oneof![8 => (1..CAPACITY).prop_map(Whim::Move), 3 => Just(Whim::Block), 2 => Just(Whim::Interrupt)]
}

fn whims() -> impl Strategy<Value = VecDeque<Whim>> {
    prop::collection::vec(whim(), 0..60).prop_map(VecDeque::from)
}

/// With one failure, or none.
fn bad_whims() -> impl Strategy<Value = VecDeque<Whim>> {
    (whims(), prop::option::of(0..60usize)).prop_map(|(mut whims, fail)| {
        if let Some(at) = fail {
            whims.insert(at.min(whims.len()), Whim::Fail);
        }
        whims
    })
}

/// Goes on until it is over or `ticks` have passed; each tick the world makes both sides ready again.
fn run(direction: &mut Direction, fake: &mut Fake, ticks: usize) -> Option<io::Result<()>> {
    for _ in 0..ticks {
        (fake.source_ready, fake.sink_ready) = (true, true);
        match direction.advance(fake) {
            Ok(Stop::Ended) => return Some(Ok(())),
            Ok(Stop::Waits) => assert!(!fake.source_ready || !fake.sink_ready, "waits for something"),
            Ok(Stop::Starves | Stop::Yields) => {}
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

proptest! {
    #[test]
    fn no_byte_is_lost_or_reordered(
        count in 0..4000usize, ends: bool, no_pipe in 0..5usize, whims_in in whims(), whims_out in whims(),
    ) {
        let mut fake =
            Fake { source: bytes(count).into(), source_ends: ends, no_pipe, whims_in, whims_out, ..Fake::default() };
        let mut direction = Direction::default();
        let over = run(&mut direction, &mut fake, 500);
        prop_assert_eq!(&fake.sink, &bytes(count));
        prop_assert_eq!(over.is_some(), ends);
        prop_assert_eq!(fake.shut, ends);
        prop_assert_eq!(direction.is_told(), ends);
        prop_assert!(fake.pipe.is_none(), "holds no pipe when idle or over");
        prop_assert!(fake.most_held <= CAPACITY);
    }

    #[test]
    fn an_error_ends_it_without_an_end_for_the_sink(
        count in 0..4000usize, ends: bool, whims_in in bad_whims(), whims_out in bad_whims(),
    ) {
        let mut fake = Fake { source: bytes(count).into(), source_ends: ends, whims_in, whims_out, ..Fake::default() };
        let mut direction = Direction::default();
        let over = run(&mut direction, &mut fake, 500);
        prop_assert_eq!(matches!(over, Some(Err(_))), fake.failed);
        prop_assert_eq!(&fake.sink[..], &bytes(count)[..fake.sink.len()]);
        prop_assert_eq!(fake.shut, ends && !fake.failed);
        direction.flush(&mut fake);
        prop_assert!(fake.pipe.is_none_or(|pipe| !pipe.is_empty()), "gives an empty pipe back");
    }

    #[test]
    fn a_flush_brings_what_is_there_but_no_end(count in 0..1000usize, ends: bool, ticks in 0..3usize) {
        let mut fake = Fake { source: bytes(count).into(), source_ends: ends, ..Fake::default() };
        let mut direction = Direction::default();
        let over = run(&mut direction, &mut fake, ticks).is_some();
        (fake.source_ready, fake.sink_ready) = (true, true);
        direction.flush(&mut fake);
        prop_assert_eq!(&fake.sink, &bytes(count));
        prop_assert_eq!(fake.shut, over);
        prop_assert_eq!(direction.is_told(), over);
        prop_assert!(fake.pipe.is_none(), "gives the pipe back");
    }
}

#[test]
fn a_sink_that_takes_nothing_is_an_error_and_no_loop() {
    let mut direction = Direction { held: 1, phase: Phase::Flowing };
    assert_eq!(direction.emptied(0).unwrap_err().kind(), ErrorKind::WriteZero);
}
