//! What an API does to its readers while its servers run: errors, slow answers, watches that end, and a server that is
//! behind the others. Probes of `/readyz` see little of it.

use std::fmt::{self, Display, Formatter};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use integration::control_plane::ControlPlane;
use integration::sim::control::Control;
use integration::sim::protocol::{Canned, ExpiredForm, Injection};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::stage::APISERVERS;

/// Changes of the endpoints that a server misses.
const MISSED: usize = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);

/// One of those.
#[derive(Clone, Debug)]
pub enum Api {
    /// This HTTP status to every request for objects, for so long.
    Errors { status: u16, time: Duration },
    /// Every answer comes so late, for so long.
    Slow { delay: Duration, time: Duration },
    /// Every watch ends, as one does after some minutes.
    Closed,
    /// Every watch ends in the middle of a line.
    Torn,
    /// Every watch ends with an ERROR of this code.
    Error(u16),
    /// All versions are too old, and watches get that in this form.
    Expired(ExpiredForm),
    /// Every connection is reset.
    Reset,
    /// The first of the servers misses changes of the endpoints, and readers of the others are sent away.
    Lag,
}

/// What happens, and to which API servers.
#[derive(Clone, Debug)]
pub struct Trouble {
    what: Api,
    numbers: Vec<u8>,
}

impl Trouble {
    /// Chooses.
    pub fn choose(chance: &mut impl RngExt) -> Self {
        let mut numbers = APISERVERS.to_vec();
        numbers.shuffle(chance);
        // Mostly all of them: who reads is with one of three.
        numbers.truncate([1, 2, 3, 3, 3][chance.random_range(0..5)]);
        let time = Duration::from_millis(chance.random_range(200..3000));
        let what = match chance.random_range(0..8) {
            0 => Api::Errors { status: *[429, 500, 503, 504].choose(chance).unwrap_or(&500), time },
            1 => Api::Slow { delay: Duration::from_millis(chance.random_range(100..1500)), time },
            2 => Api::Closed,
            3 => Api::Torn,
            4 => Api::Error(*[410, 410, 500].choose(chance).unwrap_or(&410)),
            5 if chance.random() => Api::Expired(ExpiredForm::Event),
            5 => Api::Expired(ExpiredForm::Http),
            6 => Api::Reset,
            _ => Api::Lag,
        };
        Self { what, numbers }
    }

    /// Does it, and undoes it. Servers that do not run at the time are left out.
    pub fn happen(&self, plane: &mut ControlPlane<'_>, chance: &mut impl RngExt) -> Result<()> {
        let numbers = plane.fleet()?.listening(&self.numbers);
        match &self.what {
            Api::Errors { status, time } => {
                let canned = Canned::status(*status);
                each(plane, &numbers, move |control| {
                    let canned = canned.clone();
                    async move { control.answer(Some(canned)).await }
                })?;
                thread::sleep(*time);
                each(plane, &numbers, |control| async move { control.answer(None).await })
            }
            Api::Slow { delay, time } => {
                let delay = *delay;
                each(plane, &numbers, move |control| async move { control.delay(delay).await })?;
                thread::sleep(*time);
                each(plane, &numbers, |control| async move { control.delay(Duration::ZERO).await })
            }
            Api::Closed => inject(plane, &numbers, &Injection::Close),
            Api::Torn => inject(plane, &numbers, &Injection::HalfLine),
            Api::Error(code) => inject(plane, &numbers, &Injection::Error(*code)),
            Api::Expired(form) => {
                let form = *form;
                each(plane, &numbers, move |control| async move {
                    control.adjust(|faults| faults.expired = form).await?;
                    control.bump(None).await?;
                    control.drop_history().await?;
                    control.close_watches().await.map(drop)
                })
            }
            Api::Reset => each(plane, &numbers, |control| async move { control.reset(false).await }),
            Api::Lag => lag(plane, &numbers, chance),
        }
    }
}

fn lag(plane: &mut ControlPlane<'_>, numbers: &[u8], chance: &mut impl RngExt) -> Result<()> {
    let Some(late) = numbers.first().copied() else { return Ok(()) };
    plane.fleet()?.lag(late)?;
    for _ in 0..MISSED {
        plane.publish_apiservers(&APISERVERS[..chance.random_range(1..=APISERVERS.len())])?;
        thread::sleep(PAUSE);
    }
    // Some of them find the one that is behind.
    plane.end_connections()?;
    thread::sleep(Duration::from_secs(1));
    plane.fleet()?.catch_up(late)
}

fn inject(plane: &mut ControlPlane<'_>, numbers: &[u8], what: &Injection) -> Result<()> {
    each(plane, numbers, |control| {
        let what = what.clone();
        async move { control.inject(None, what).await.map(drop) }
    })
}

fn each<F>(plane: &mut ControlPlane<'_>, numbers: &[u8], order: impl Fn(Control) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    plane.fleet()?.on_each(numbers, |_, control| order(control))
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { what, numbers } = self;
        match what {
            Api::Errors { status, time } => write!(f, "the API of {numbers:?} answers {status} for {time:?}"),
            Api::Slow { delay, time } => write!(f, "{numbers:?} answer {delay:?} late for {time:?}"),
            Api::Closed => write!(f, "the watches of {numbers:?} end"),
            Api::Torn => write!(f, "the watches of {numbers:?} end in a line"),
            Api::Error(code) => write!(f, "the watches of {numbers:?} end with ERROR {code}"),
            Api::Expired(form) => write!(f, "all versions of {numbers:?} expire, reported by {form:?}"),
            Api::Reset => write!(f, "the connections of {numbers:?} are reset"),
            Api::Lag => write!(f, "{:?} is behind the others", &numbers[..1]),
        }
    }
}
