//! The cost of a request in the model, known before it is submitted, and the pieces in which it is submitted.

use std::sync::Arc;

use super::InputError;
use crate::lm::Sequence;

/// Tokens and readout positions that the model computes for one request.
pub const COMPUTED_TOKENS_MAX: usize = 4 << 20;

/// Sequences that the model computes for one request.
pub const SEQUENCES_MAX: usize = 100_000;

/// Tokens and sequences of one piece: some batches, so that a worker seldom waits for the next piece.
const PIECE_TOKENS: usize = 32 * 1024;
const PIECE_SEQUENCES: usize = 512;

/// Bytes of the sequences and scores of one piece, beside the scores that a task counts itself.
pub const PIECE_BYTES: usize = PIECE_TOKENS * size_of::<u32>() + PIECE_SEQUENCES * 256;

/// The sequences that the model computes for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computation {
    pub sequences: usize,
    /// Tokens of these sequences and their readout positions.
    pub tokens: usize,
}

impl Computation {
    /// Adds `sequences` sequences of `tokens` tokens, each with `readouts` readout positions.
    ///
    /// # Errors
    /// When the request exceeds a limit.
    pub fn add(&mut self, sequences: usize, tokens: usize, readouts: usize) -> Result<(), InputError> {
        let computed = sequences.saturating_mul(tokens.saturating_add(readouts));
        self.sequences = self.sequences.saturating_add(sequences);
        self.tokens = self.tokens.saturating_add(computed);
        match self.sequences > SEQUENCES_MAX || self.tokens > COMPUTED_TOKENS_MAX {
            true => Err(InputError::TooMuchComputation {
                sequences: self.sequences,
                tokens: self.tokens,
                sequences_max: SEQUENCES_MAX,
                tokens_max: COMPUTED_TOKENS_MAX,
            }),
            false => Ok(()),
        }
    }
}

/// The sequences that are submitted next.
#[derive(Debug, Default)]
pub struct Piece {
    pub sequences: Vec<Arc<Sequence>>,
    tokens: usize,
}

impl Piece {
    /// All sequences of a request.
    pub fn whole(sequences: &[Arc<Sequence>]) -> Self {
        let mut piece = Self::default();
        sequences.iter().for_each(|sequence| piece.share(sequence));
        piece
    }

    pub fn share(&mut self, sequence: &Arc<Sequence>) {
        self.tokens += sequence.tokens() + sequence.readout.positions.len();
        self.sequences.push(Arc::clone(sequence));
    }

    pub fn push(&mut self, sequence: Sequence) {
        self.share(&Arc::new(sequence));
    }

    /// Tokens and readout positions of all its sequences.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// True if the next sequence belongs to the next piece.
    pub fn is_full(&self) -> bool {
        self.tokens >= PIECE_TOKENS || self.sequences.len() >= PIECE_SEQUENCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::Select;

    #[test]
    fn a_request_is_bounded_in_sequences_and_in_tokens() {
        let mut computation = Computation::default();
        computation.add(8_000, 500, 1).unwrap();
        let error = computation.add(1_000, 500, 1).unwrap_err().to_string();
        for part in ["9000 sequences", "4509000 tokens", "4194304", "100000"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(Computation::default().add(SEQUENCES_MAX + 1, 1, 1).is_err());
        assert!(Computation::default().add(usize::MAX, usize::MAX, usize::MAX).is_err());
    }

    #[test]
    fn a_piece_is_some_batches() {
        let (mut piece, mut sequences) = (Piece::default(), 0);
        while !piece.is_full() {
            piece.push(Sequence::new(vec![1; 499], [0], Select::TopK(1)));
            sequences += 1;
        }
        assert_eq!(sequences, 66);
        let mut piece = Piece::default();
        (0..PIECE_SEQUENCES).for_each(|_| piece.push(Sequence::new([1], [0], Select::TopK(1))));
        assert!(piece.is_full());
    }
}
