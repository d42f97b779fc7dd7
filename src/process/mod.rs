//! This process among the others of its node: its lock, the hand-over from one daemon to the next, its privileges, its log and
//! its clock.

pub mod handover;
pub mod lock;
pub mod log;
pub mod privileges;

/// The wall clock, for times that leave the process: in files, metrics and output for people.
pub mod clock {
    use std::time::{SystemTime, UNIX_EPOCH};

    /// Seconds since 1970; 0 while the clock is set to an earlier time.
    pub fn unix_now() -> u64 {
        unix_seconds(SystemTime::now())
    }

    /// Seconds from 1970 to `time`; 0 for an earlier time.
    pub fn unix_seconds(time: SystemTime) -> u64 {
        time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
