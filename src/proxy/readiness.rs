//! What is known of a socket from edge-triggered events. Pure.
//!
//! An event is told once, so what it said stays true until the kernel says `WouldBlock`.

use std::io::{self, ErrorKind};

/// What the kernel told of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Its peer says no more: behind the last byte there is an end to be read.
    pub(super) closed: bool,
    /// It was reset, or its peer is gone.
    pub(super) failed: bool,
}

/// What is known by now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready(Events);

impl Ready {
    pub(super) fn hear(&mut self, events: Events) {
        self.0.readable |= events.readable;
        self.0.writable |= events.writable;
        self.0.closed |= events.closed;
        self.0.failed |= events.failed;
    }

    pub(super) fn learn_read<T>(&mut self, result: &io::Result<T>) {
        self.0.readable &= !would_block(result);
    }

    /// Less was read than there was room for: more will be told, unless the end was told already.
    pub(super) fn learn_short_read(&mut self) {
        self.0.readable &= self.0.closed;
    }

    pub(super) fn learn_write<T>(&mut self, result: &io::Result<T>) {
        self.0.writable &= !would_block(result);
    }

    pub(super) fn is_readable(self) -> bool {
        self.0.readable
    }

    pub(super) fn is_writable(self) -> bool {
        self.0.writable
    }

    pub(super) fn has_failed(self) -> bool {
        self.0.failed
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_would_block_takes_back_what_was_heard() {
        let mut ready = Ready::default();
        assert!(!ready.is_readable() && !ready.is_writable() && !ready.has_failed());
        ready.hear(Events { readable: true, ..Events::default() });
        ready.hear(Events { writable: true, ..Events::default() });
        ready.learn_read(&Ok(3));
        ready.learn_read::<()>(&Err(ErrorKind::Interrupted.into()));
        assert!(ready.is_readable() && ready.is_writable());
        ready.learn_read::<()>(&Err(ErrorKind::WouldBlock.into()));
        assert!(!ready.is_readable() && ready.is_writable());
        ready.learn_write::<()>(&Err(ErrorKind::WouldBlock.into()));
        assert!(!ready.is_writable());
    }

    #[test]
    fn a_short_read_is_the_last_before_an_event_unless_the_end_was_told() {
        let mut ready = Ready::default();
        ready.hear(Events { readable: true, ..Events::default() });
        ready.learn_short_read();
        assert!(!ready.is_readable());
        ready.hear(Events { readable: true, closed: true, ..Events::default() });
        ready.learn_short_read();
        assert!(ready.is_readable(), "the end is still to be read");
    }
}
