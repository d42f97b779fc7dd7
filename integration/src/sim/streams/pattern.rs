//! Bytes that both sides know beforehand, so that a lost, doubled, changed or displaced one is seen where it happens.
//!
//! In: a seed. Out: an endless sequence, written or compared piece by piece.

/// Bytes of a block. Odd, so that no buffer or pipe of a proxy is a multiple of it.
const BLOCK: usize = 65_521;

/// A position in the sequence of one seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    block: Vec<u8>,
    number: u64,
    at: usize,
}

impl Pattern {
    /// The beginning of the sequence.
    pub fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            // xorshift64: cheap, and no two seeds look alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let mut pattern =
            Self { block: std::iter::repeat_with(next).take(BLOCK).collect(), number: 0, at: 0 };
        pattern.number_block();
        pattern
    }

    /// Where it stands, in bytes from the beginning.
    pub fn position(&self) -> u64 {
        self.number * BLOCK as u64 + self.at as u64
    }

    /// Writes the next bytes of the sequence.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let piece = self.rest().len().min(out.len());
            out[..piece].copy_from_slice(&self.rest()[..piece]);
            out = &mut out[piece..];
            self.advance(piece);
        }
    }

    /// Whether these are the next bytes of the sequence.
    pub fn check(&mut self, mut seen: &[u8]) -> bool {
        while !seen.is_empty() {
            let piece = self.rest().len().min(seen.len());
            if seen[..piece] != self.rest()[..piece] {
                return false;
            }
            seen = &seen[piece..];
            self.advance(piece);
        }
        true
    }

    fn rest(&self) -> &[u8] {
        &self.block[self.at..]
    }

    fn advance(&mut self, by: usize) {
        self.at += by;
        if self.at == BLOCK {
            self.at = 0;
            self.number += 1;
            self.number_block();
        }
    }

    /// Each block begins with its number, or two blocks that changed places would not be seen.
    fn number_block(&mut self) {
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Pattern::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn pieces_of_any_size_agree() {
        let whole = bytes(7, 3 * BLOCK + 5);
        let mut pattern = Pattern::new(7);
        assert!(whole.chunks(1000).all(|piece| pattern.check(piece)));
        assert_eq!(pattern.position(), whole.len() as u64);
    }

    #[test]
    fn what_is_not_the_sequence_is_seen() {
        let whole = bytes(7, 3 * BLOCK);
        let mut displaced = whole[BLOCK..2 * BLOCK].to_vec();
        displaced.extend_from_slice(&whole[..BLOCK]);
        let mut changed = whole.clone();
        changed[2 * BLOCK + 100] ^= 1;
        for wrong in [&displaced[..], &changed, &whole[1..], &bytes(8, BLOCK)] {
            assert!(!Pattern::new(7).check(wrong));
        }
    }
}
