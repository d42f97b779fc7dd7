//! A long cable: two tap devices in different namespaces, and a thread that carries each frame from one to the other after a
//! while. It needs nothing of the kernel but tap devices.
//! In: the two ends, and how long a frame takes, which may change at any time. Out: a [`DelayLine`]; its devices go with it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tappers::{Interface, Tap};

use crate::netns::Namespace;

/// Larger than any frame of a device whose segments the kernel cuts itself.
const FRAME: usize = 64 * 1024;

/// Frames on their way in one direction; more are lost.
const UNDER_WAY: usize = 16 * 1024;

/// How long a thread sleeps at most, so that it hears of its end.
const NAP: Duration = Duration::from_millis(50);

/// A cable between two namespaces.
#[derive(Debug)]
pub struct DelayLine {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Orders {
    /// Microseconds in each direction.
    delay: AtomicU64,
    stop: AtomicBool,
}

impl DelayLine {
    /// Makes the device `name` in each of the two namespaces, down and without addresses, and the cable between them, which
    /// is short at first.
    pub fn new(ends: [(&Namespace, &str); 2]) -> Result<Self> {
        let [one, other] = ends.map(|(namespace, name)| tap(namespace, name));
        let taps = [one?, other?];
        let orders = Arc::<Orders>::default();
        let heard = orders.clone();
        let carry = move || {
            if let Err(error) = carry(&taps, &heard) {
                eprintln!("a cable broke: {error}");
            }
        };
        let thread = thread::Builder::new().name("cable".to_owned()).spawn(carry);
        Ok(Self { orders, thread: Some(thread.context("start the thread of a cable")?) })
    }

    /// How long each frame takes from now on, in either direction; those under way, too. The order of frames stays.
    pub fn set(&self, one_way: Duration) {
        let micros = u64::try_from(one_way.as_micros()).unwrap_or(u64::MAX);
        self.orders.delay.store(micros, Ordering::Relaxed);
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the thread of a cable panicked");
        }
    }
}

fn tap(namespace: &Namespace, name: &str) -> Result<Tap> {
    let made = namespace.within(|| {
        let mut tap = Tap::new_named(Interface::new(name)?)?;
        tap.set_nonblocking(true)?;
        Ok(tap)
    });
    made.with_context(|| {
        format!("make the tap device {name} in {} (is /dev/net/tun there?)", namespace.name())
    })
}

/// Carries frames in both directions until it is told to stop, or a device is gone.
fn carry(taps: &[Tap; 2], orders: &Orders) -> io::Result<()> {
    let mut under_way: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut buffer = vec![0; FRAME];
    while !orders.stop.load(Ordering::Relaxed) {
        let delay = Duration::from_micros(orders.delay.load(Ordering::Relaxed));
        let mut nap = NAP;
        for (frames, to) in under_way.iter_mut().zip([&taps[1], &taps[0]]) {
            while let Some((sent, frame)) = frames.front() {
                let left = delay.saturating_sub(sent.elapsed());
                if !left.is_zero() {
                    nap = nap.min(left);
                    break;
                }
                // A device that is down takes nothing.
                let _ = to.send(frame);
                frames.pop_front();
            }
        }
        let mut ready = taps.each_ref().map(|tap| PollFd::new(tap, PollFlags::IN));
        let nap = Timespec::try_from(nap).map_err(io::Error::other)?;
        match poll(&mut ready, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (frames, from) in under_way.iter_mut().zip(taps) {
            loop {
                match from.recv(&mut buffer) {
                    Ok(length) if frames.len() < UNDER_WAY => {
                        frames.push_back((Instant::now(), buffer[..length].to_vec()));
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}
