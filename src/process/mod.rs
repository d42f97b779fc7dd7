//! This process among the others of its host: its lock, what one daemon hands over to the next, its privileges, its log and its
//! clock.

pub mod clock;
pub mod handover;
pub mod lock;
pub mod log;
pub mod privileges;
