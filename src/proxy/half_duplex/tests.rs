use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What the kernel does at a call.
#[derive(Clone, Copy, Debug)]
enum CallResult {
    /// Moves at most so many.
    Move(usize),
    Block,
    Interrupt,
    Fail,
}

/// A source with bytes, a pipe, and a sink, whose call_results run out: then everything goes well.
#[derive(Debug, Default)]
struct Fake {
    source: VecDeque<u8>,
    source_ends: bool,
    pipe: Option<VecDeque<u8>>,
    sink: Vec<u8>,
    shut: bool,
    results_in: VecDeque<CallResult>,
    results_out: VecDeque<CallResult>,
    /// So many times there is no pipe.
    no_pipe: usize,
    source_ready: bool,
    sink_ready: bool,
    failed: bool,
    most_held: usize,
}

const CAPACITY: usize = 64;

impl Fake {
    fn call_result(call_results: &mut VecDeque<CallResult>, failed: &mut bool) -> io::Result<usize> {
        match call_results.pop_front().unwrap_or(CallResult::Move(CAPACITY)) {
            CallResult::Move(most) => Ok(most),
            CallResult::Block => Err(ErrorKind::WouldBlock.into()),
            CallResult::Interrupt => Err(ErrorKind::Interrupted.into()),
            CallResult::Fail => {
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
impl SpliceIo for Fake {
    fn is_source_ready(&self) -> bool {
        self.source_ready
    }

    fn is_sink_ready(&self) -> bool {
        self.sink_ready
    }

    fn acquire_pipe(&mut self) -> bool {
        if self.pipe.is_none() && self.no_pipe > 0 {
            self.no_pipe -= 1;
            return false;
        }
        self.pipe.get_or_insert_default();
        true
    }

    fn splice_in(&mut self) -> io::Result<usize> {
        assert!(self.pipe().is_empty(), "fills only an empty pipe");
        let most = Self::call_result(&mut self.results_in, &mut self.failed);
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
        let result = Self::call_result(&mut self.results_out, &mut self.failed);
        self.sink_ready &= !matches!(&result, Err(e) if e.kind() == ErrorKind::WouldBlock);
        let count = result?.clamp(1, held);
        let bytes: Vec<u8> = self.pipe().drain(..count).collect();
        self.sink.extend(bytes);
        Ok(count)
    }

    fn shutdown_sink(&mut self) -> io::Result<()> {
        assert!(!self.shut, "ends once");
        self.shut = true;
        Ok(())
    }

    fn release_pipe(&mut self) {
        let pipe = self.pipe.take();
        assert!(pipe.is_none_or(|pipe| pipe.is_empty()), "gives back only an empty pipe");
    }
}

fn call_result() -> impl Strategy<Value = CallResult> {
    prop_oneof![8 => (1..CAPACITY).prop_map(CallResult::Move), 3 => Just(CallResult::Block), 2 => Just(CallResult::Interrupt)]
}

fn call_results() -> impl Strategy<Value = VecDeque<CallResult>> {
    prop::collection::vec(call_result(), 0..60).prop_map(VecDeque::from)
}

/// With one failure, or none.
fn failing_call_results() -> impl Strategy<Value = VecDeque<CallResult>> {
    (call_results(), prop::option::of(0..60usize)).prop_map(|(mut call_results, fail)| {
        if let Some(at) = fail {
            call_results.insert(at.min(call_results.len()), CallResult::Fail);
        }
        call_results
    })
}

/// Goes on until it is over or `ticks` have passed; each tick the world makes both sides ready again.
fn run(half: &mut HalfDuplex, fake: &mut Fake, ticks: usize) -> Option<io::Result<()>> {
    for _ in 0..ticks {
        (fake.source_ready, fake.sink_ready) = (true, true);
        match half.advance(fake) {
            Ok(Progress::Finished) => return Some(Ok(())),
            Ok(Progress::Blocked) => assert!(!fake.source_ready || !fake.sink_ready, "waits for something"),
            Ok(Progress::NoPipe | Progress::Yielded) => {}
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
    fn bytes_arrive_complete_and_in_order(
        count in 0..4000usize, ends: bool, no_pipe in 0..5usize, results_in in call_results(), results_out in call_results(),
    ) {
        let mut fake =
            Fake { source: bytes(count).into(), source_ends: ends, no_pipe, results_in, results_out, ..Fake::default() };
        let mut half = HalfDuplex::default();
        let over = run(&mut half, &mut fake, 500);
        prop_assert_eq!(&fake.sink, &bytes(count));
        prop_assert_eq!(over.is_some(), ends);
        prop_assert_eq!(fake.shut, ends);
        prop_assert_eq!(half.is_finished(), ends);
        prop_assert!(fake.pipe.is_none(), "holds no pipe when idle or over");
        prop_assert!(fake.most_held <= CAPACITY);
    }

    #[test]
    fn error_sends_no_fin_to_the_sink(
        count in 0..4000usize, ends: bool, results_in in failing_call_results(), results_out in failing_call_results(),
    ) {
        let mut fake = Fake { source: bytes(count).into(), source_ends: ends, results_in, results_out, ..Fake::default() };
        let mut half = HalfDuplex::default();
        let over = run(&mut half, &mut fake, 500);
        prop_assert_eq!(matches!(over, Some(Err(_))), fake.failed);
        prop_assert_eq!(&fake.sink[..], &bytes(count)[..fake.sink.len()]);
        prop_assert_eq!(fake.shut, ends && !fake.failed);
        half.flush(&mut fake);
        prop_assert!(fake.pipe.is_none_or(|pipe| !pipe.is_empty()), "gives an empty pipe back");
    }

    #[test]
    fn flush_delivers_pending_bytes_without_fin(count in 0..1000usize, ends: bool, ticks in 0..3usize) {
        let mut fake = Fake { source: bytes(count).into(), source_ends: ends, ..Fake::default() };
        let mut half = HalfDuplex::default();
        let over = run(&mut half, &mut fake, ticks).is_some();
        (fake.source_ready, fake.sink_ready) = (true, true);
        half.flush(&mut fake);
        prop_assert_eq!(&fake.sink, &bytes(count));
        prop_assert_eq!(fake.shut, over);
        prop_assert_eq!(half.is_finished(), over);
        prop_assert!(fake.pipe.is_none(), "gives the pipe back");
    }
}

#[test]
fn sink_that_takes_zero_bytes_is_an_error() {
    let mut half = HalfDuplex { held: 1, phase: Phase::Open };
    assert_eq!(half.drained(0).unwrap_err().kind(), ErrorKind::WriteZero);
}

#[test]
fn only_would_block_clears_readiness() {
    let mut ready = Readiness::default();
    assert!(!ready.is_readable() && !ready.is_writable() && !ready.has_failed());
    ready.on_event(SocketEvents { readable: true, ..SocketEvents::default() });
    ready.on_event(SocketEvents { writable: true, ..SocketEvents::default() });
    ready.on_read(&Ok(3));
    ready.on_read::<()>(&Err(ErrorKind::Interrupted.into()));
    assert!(ready.is_readable() && ready.is_writable());
    ready.on_read::<()>(&Err(ErrorKind::WouldBlock.into()));
    assert!(!ready.is_readable() && ready.is_writable());
    ready.on_write::<()>(&Err(ErrorKind::WouldBlock.into()));
    assert!(!ready.is_writable());
}

#[test]
fn short_read_clears_readable_unless_the_peer_has_closed() {
    let mut ready = Readiness::default();
    ready.on_event(SocketEvents { readable: true, ..SocketEvents::default() });
    ready.on_short_read();
    assert!(!ready.is_readable());
    ready.on_event(SocketEvents { readable: true, closed: true, ..SocketEvents::default() });
    ready.on_short_read();
    assert!(ready.is_readable(), "the end is still to be read");
}
