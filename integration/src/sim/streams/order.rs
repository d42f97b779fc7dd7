//! The first line of a connection: what the client wants of the server.
//!
//! In: the words `ID WHAT NUMBER…`. Out: an [`Order`], and back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What the server does. Bytes are those of the [`super::pattern::Pattern`] of the connection's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Every byte back until the client closes its half; then it closes its own.
    Echo,
    /// Waits, then reads until the client closes its half, answers with its record, and closes.
    Take {
        /// How long it reads nothing first.
        wait: Duration,
        /// Time between two reads.
        pause: Duration,
    },
    /// Sends so many bytes and closes its half, then reads until the client closes.
    Send {
        /// How many.
        bytes: u64,
        /// Time between two writes.
        pause: Duration,
    },
    /// Sends so many bytes and resets the connection.
    Reset {
        /// How many.
        bytes: u64,
    },
    /// Closes its half at once, then reads the pattern until the client closes.
    HalfClose,
}

/// An order, with the number that names the connection in the server's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Chosen by the client; also the seed of the bytes.
    pub id: u64,
    /// What to do.
    pub what: What,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id)?;
        match self.what {
            What::Echo => write!(f, "echo"),
            What::Take { wait, pause } => write!(f, "take {} {}", wait.as_millis(), pause.as_millis()),
            What::Send { bytes, pause } => write!(f, "send {bytes} {}", pause.as_millis()),
            What::Reset { bytes } => write!(f, "reset {bytes}"),
            What::HalfClose => write!(f, "half-close"),
        }
    }
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let id = words.next().unwrap_or_default().parse().context("parse the number of an order")?;
        let kind = words.next().unwrap_or_default();
        let mut number = || -> Result<u64> {
            let word = words.next().with_context(|| format!("too few numbers in {line:?}"))?;
            word.parse().with_context(|| format!("parse a number of {line:?}"))
        };
        let what = match kind {
            "echo" => What::Echo,
            "take" => {
                What::Take { wait: Duration::from_millis(number()?), pause: Duration::from_millis(number()?) }
            }
            "send" => What::Send { bytes: number()?, pause: Duration::from_millis(number()?) },
            "reset" => What::Reset { bytes: number()? },
            "half-close" => What::HalfClose,
            _ => bail!("no such order: {line:?}"),
        };
        Ok(Self { id, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_read_as_they_are_written() {
        let second = Duration::from_secs(1);
        for what in [
            What::Echo,
            What::Take { wait: second, pause: Duration::ZERO },
            What::Send { bytes: 1 << 30, pause: second },
            What::Reset { bytes: 5 },
            What::HalfClose,
        ] {
            let order = Order { id: 9, what };
            assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
        }
        for wrong in ["", "x echo", "1", "1 send", "1 send 5", "1 reset -1"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }
}
