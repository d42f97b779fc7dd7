//! The wall clock, for dates that leave the process: in files, in metrics, in what people read.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970; 0 while the clock says that it is earlier.
pub fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

/// Seconds from 1970 to `time`; 0 for what was earlier.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
