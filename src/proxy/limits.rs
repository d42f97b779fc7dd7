//! How many connections this process can hold.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A busy connection holds two sockets and, for each direction, a pipe with two ends.
const BUSY: usize = 6;
/// An idle one holds the sockets. More than there is room for would leave no pipe for any of them, for ever.
const IDLE: usize = 2;
/// For the rest of the daemon: watches, probes of each apiserver, netlink, dials that race, and those who ask the daemon
/// itself.
const RESERVE: usize = 96;
/// What an unlimited process is taken to have: the kernel's own bound (fs.nr_open) where nobody changed it.
const UNLIMITED: usize = 1 << 20;

/// How many there may be, in total and of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) per_client: usize,
}

impl Limits {
    /// Raises the soft limit of descriptors to the hard one, derives from it what was not given, and bounds by it what
    /// was.
    pub(super) fn resolve(connections: Option<usize>, per_client: Option<usize>) -> Self {
        let descriptors = raise_descriptors();
        let open = fs::read_dir("/proc/self/fd").map_or(RESERVE, Iterator::count);
        let connections = match connections {
            Some(wanted) => wanted.clamp(1, affordable(descriptors, open, IDLE)),
            None => affordable(descriptors, open, BUSY),
        };
        Self { connections, per_client: per_client.unwrap_or(connections / 2).max(1) }
    }
}

fn affordable(descriptors: usize, open: usize, each: usize) -> usize {
    descriptors.saturating_sub(open + RESERVE).max(each) / each
}

fn raise_descriptors() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What is refused is not missed: fewer connections are taken then.
    let current = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    current.and_then(|count| usize::try_from(count).ok()).unwrap_or(UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_from_descriptors() {
        assert_eq!(affordable(1024, 20, BUSY), 151);
        assert_eq!(affordable(64, 30, BUSY), 1);
        assert_eq!(affordable(0, 30, IDLE), 1);
        assert!(Limits::resolve(Some(usize::MAX), None).connections < usize::MAX / 2);
    }

    #[test]
    fn one_client_gets_half() {
        let limits = Limits::resolve(Some(9), None);
        assert_eq!((limits.connections, limits.per_client), (9, 4));
        let limits = Limits::resolve(Some(1), None);
        assert_eq!((limits.connections, limits.per_client), (1, 1));
        assert!(Limits::resolve(None, Some(3)).connections >= 1);
    }
}
