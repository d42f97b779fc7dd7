//! Cuts the body of a watch into lines, one event each, with a bound on what one line may hold.
//!
//! In: chunks as the network delivers them. Out: whole lines. A line that lies within one chunk is never copied.

/// Largest line of a watch and largest body of a list, in bytes. etcd refuses objects beyond 1.5 MiB by default, so
/// nothing that the API stores comes near it, and a server gone wrong cannot make the daemon grow.
pub const MAX_OBJECT_BYTES: usize = 4 << 20;

/// Capacity that the buffer keeps between lines, in bytes: the Service's events are a few kilobytes.
const KEPT_CAPACITY: usize = 16 << 10;

/// A line exceeds the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} bytes without a line end")]
pub struct TooLong {
    /// The bound, in bytes.
    pub limit: usize,
}

/// Collects chunks until a line is whole.
#[derive(Debug)]
pub struct Lines {
    begun: Vec<u8>,
    limit: usize,
}

impl Lines {
    /// An empty buffer for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { begun: Vec::new(), limit }
    }

    /// Takes the next chunk and hands every line that it completes to `each`, without its line end. Blank lines are
    /// skipped. Stops at the first error.
    pub fn push<E: From<TooLong>>(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            self.check(line.len())?;
            if self.begun.is_empty() {
                deliver(line, &mut each)?;
            } else {
                self.begun.extend_from_slice(line);
                let whole = std::mem::take(&mut self.begun);
                deliver(&whole, &mut each)?;
                self.reuse(whole);
            }
            chunk = rest;
        }
        self.check(chunk.len())?;
        self.begun.extend_from_slice(chunk);
        Ok(())
    }

    /// How many bytes of an unfinished line are held.
    pub fn unfinished(&self) -> usize {
        self.begun.len()
    }

    fn check(&self, more: usize) -> Result<(), TooLong> {
        if self.begun.len().saturating_add(more) > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        Ok(())
    }

    fn reuse(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_CAPACITY {
            buffer.clear();
            self.begun = buffer;
        }
    }
}

fn deliver<E>(line: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let line = line.trim_ascii();
    if line.is_empty() { Ok(()) } else { each(line) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, usize, Result<(), TooLong>) {
        let mut buffer = Lines::new(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            let result = buffer.push(chunk, |line| {
                found.push(line.to_vec());
                Ok::<(), TooLong>(())
            });
            if result.is_err() {
                return (found, buffer.unfinished(), result);
            }
        }
        (found, buffer.unfinished(), Ok(()))
    }

    #[test]
    fn lines_span_chunks_and_blank_ones_vanish() {
        let (found, unfinished, result) = lines(&[b"a\n\r\nb", b"c", b"\nd\n", b"half"], 16);
        assert_eq!(found, [b"a".to_vec(), b"bc".to_vec(), b"d".to_vec()]);
        assert_eq!(unfinished, 4);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_line_past_the_bound_is_refused_before_it_is_held() {
        let (found, unfinished, result) = lines(&[b"ok\n123", b"456", b"7890"], 8);
        assert_eq!(found, [b"ok".to_vec()]);
        assert_eq!(unfinished, 6);
        assert_eq!(result, Err(TooLong { limit: 8 }));
        assert_eq!(lines(&[b"123456789\n"], 8).2, Err(TooLong { limit: 8 }));
    }

    proptest! {
        #[test]
        fn where_chunks_are_cut_changes_nothing(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut start = 0;
            for cut in cuts {
                chunks.push(&bytes[start..cut]);
                start = cut;
            }
            chunks.push(&bytes[start..]);
            prop_assert_eq!(lines(&chunks, 64), lines(&[bytes], 64));
        }
    }
}
