//! What the model takes and gives: token ids of many texts end to end, and scores at the mask positions.

use std::sync::Arc;

use crate::backend::Spans;

/// Which tokens of a mask's distribution are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The `n` likeliest tokens of the vocabulary, best first.
    TopK(usize),
    /// These tokens, in this order.
    Tokens(Arc<[u32]>),
}

/// A question to the model: what stands at `position`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskQuery {
    /// Row of the mask token in the packed batch.
    pub position: usize,
    /// What to answer with.
    pub selection: Selection,
}

/// A token and its probability: the softmax over the whole vocabulary, whatever was selected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Id in the vocabulary.
    pub token: u32,
    /// Probability, 0 to 1.
    pub score: f32,
}

/// Texts packed end to end, without padding, and the masks in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids of all texts, one after the other.
    input_ids: Vec<u32>,
    /// Where each text begins, and last where all end; starts with 0. Empty while there is no text.
    boundaries: Vec<usize>,
    /// The masks, in ascending order of position.
    queries: Vec<MaskQuery>,
}

impl PackedBatch {
    /// Adds a text: its token ids, and where its masks are, ascending, counted from its own beginning.
    pub fn push(&mut self, input_ids: &[u32], mask_positions: &[usize], selection: &Selection) {
        debug_assert!(mask_positions.is_sorted() && mask_positions.iter().all(|&p| p < input_ids.len()));
        if self.boundaries.is_empty() {
            self.boundaries.push(0);
        }
        let start = self.input_ids.len();
        self.input_ids.extend_from_slice(input_ids);
        self.boundaries.push(self.input_ids.len());
        self.queries.extend(mask_positions.iter().map(|&position| MaskQuery {
            position: start + position,
            selection: selection.clone(),
        }));
    }

    /// Token ids of all texts, end to end.
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// The masks of all texts, in ascending order of position.
    pub fn queries(&self) -> &[MaskQuery] {
        &self.queries
    }

    /// Each token's place within its own text.
    pub(super) fn position_ids(&self) -> Vec<u32> {
        let lengths = self.boundaries.windows(2).map(|pair| (pair[1] - pair[0]) as u32);
        lengths.flat_map(|length| 0..length).collect()
    }

    /// Spans in which every token asks, as in all layers but the last.
    pub(super) fn all_tokens(&self) -> Spans {
        Spans {
            queries: self.boundaries.clone(),
            tokens: self.boundaries.clone(),
        }
    }

    /// Spans in which the masks alone ask, as in the last layer.
    pub(super) fn masks_only(&self) -> Spans {
        let before = |&end: &usize| self.queries.partition_point(|query| query.position < end);
        Spans {
            queries: self.boundaries.iter().map(before).collect(),
            tokens: self.boundaries.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_texts_end_to_end() {
        let mut batch = PackedBatch::default();
        batch.push(&[2, 4, 3], &[1], &Selection::TopK(5));
        batch.push(&[2, 4, 9, 4, 3], &[1, 3], &Selection::TopK(1));
        assert_eq!(batch.input_ids(), [2, 4, 3, 2, 4, 9, 4, 3]);
        assert_eq!(batch.position_ids(), [0, 1, 2, 0, 1, 2, 3, 4]);
        let positions: Vec<usize> = batch.queries().iter().map(|query| query.position).collect();
        assert_eq!(positions, [1, 4, 6]);
        assert_eq!(batch.all_tokens().queries, [0, 3, 8]);
        assert_eq!(batch.masks_only().queries, [0, 1, 3]);
        assert_eq!(batch.masks_only().tokens, [0, 3, 8]);
    }
}
