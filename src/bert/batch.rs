//! What the model takes and gives: token ids of many texts end to end, and scores at the mask positions.

use std::sync::Arc;

use crate::backend::{HostLists, Lists, Spans, Wanted};

/// How many masks go through the head at once. Bounds the memory of the logits: 64 rows of bert-base's
/// 30,522 entries are 7.8 MB.
pub(super) const HEAD_ROWS_MAX: usize = 64;

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
    fn position_ids(&self) -> impl Iterator<Item = u32> {
        let lengths = self.boundaries.windows(2).map(|pair| (pair[1] - pair[0]) as u32);
        lengths.flat_map(|length| 0..length)
    }

    /// All that the model is told of the batch. `size` says how many rows so many are computed as: what fills up is
    /// token 0 at place 0, and belongs to no text.
    pub(super) fn lists(&self, vocab_size: usize, top_max: usize, size: impl Fn(usize) -> usize) -> HostLists {
        let before = |&end: &usize| self.queries.partition_point(|query| query.position < end);
        let masks_only = Spans {
            queries: self.boundaries.iter().map(before).collect(),
            tokens: self.boundaries.clone(),
        };
        let everywhere = Spans {
            queries: self.boundaries.clone(),
            tokens: self.boundaries.clone(),
        };
        let mut input_ids = self.input_ids.clone();
        input_ids.resize(size(input_ids.len()), 0);
        let mut position_ids: Vec<u32> = self.position_ids().collect();
        position_ids.resize(input_ids.len(), 0);
        let mut mask_rows: Vec<u32> = self.queries.iter().map(|query| query.position as u32).collect();
        mask_rows.resize(size(mask_rows.len()), 0);
        let mut rows_left = mask_rows.len();
        let parts = self.queries.chunks(HEAD_ROWS_MAX).map(|queries| {
            let rows_padded = rows_left.min(HEAD_ROWS_MAX);
            rows_left -= rows_padded;
            wanted(queries, rows_padded, top_max.min(vocab_size))
        });
        Lists {
            wanted: parts.collect(),
            input_ids,
            position_ids,
            mask_rows,
            everywhere,
            masks_only,
        }
    }
}

/// What `queries` ask for. Who wants more tokens than a backend finds is told the logits of all.
fn wanted(queries: &[MaskQuery], rows_padded: usize, top_max: usize) -> Wanted<Vec<u32>> {
    let (mut top, mut tokens, mut token_bounds, mut whole) = (0, Vec::new(), vec![0], Vec::new());
    for (row, query) in queries.iter().enumerate() {
        match &query.selection {
            Selection::TopK(k) if *k <= top_max => top = top.max(*k),
            Selection::TopK(_) => whole.push(row as u32),
            Selection::Tokens(wanted) => tokens.extend_from_slice(wanted),
        }
        token_bounds.push(tokens.len() as u32);
    }
    Wanted {
        rows: queries.len(),
        rows_padded,
        top,
        token_count: tokens.len(),
        tokens,
        token_bounds,
        whole_count: whole.len(),
        whole,
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
        let positions: Vec<usize> = batch.queries().iter().map(|query| query.position).collect();
        assert_eq!(positions, [1, 4, 6]);
        let lists = batch.lists(100, 64, |rows| rows);
        assert_eq!(lists.input_ids, batch.input_ids());
        assert_eq!(lists.position_ids, [0, 1, 2, 0, 1, 2, 3, 4]);
        assert_eq!(lists.mask_rows, [1, 4, 6]);
        assert_eq!(lists.everywhere.queries, [0, 3, 8]);
        assert_eq!(lists.masks_only.queries, [0, 1, 3]);
        assert_eq!(lists.masks_only.tokens, [0, 3, 8]);
    }

    #[test]
    fn what_fills_a_batch_up_belongs_to_no_text() {
        let mut batch = PackedBatch::default();
        batch.push(&[2, 4, 3], &[1], &Selection::TopK(5));
        let lists = batch.lists(100, 64, |rows| rows.next_multiple_of(4));
        assert_eq!(lists.input_ids, [2, 4, 3, 0]);
        assert_eq!(lists.position_ids, [0, 1, 2, 0]);
        assert_eq!(lists.mask_rows, [1, 0, 0, 0]);
        assert_eq!(lists.everywhere.tokens, [0, 3]);
        assert_eq!(lists.masks_only.queries, [0, 1]);
        assert_eq!((lists.wanted[0].rows, lists.wanted[0].rows_padded), (1, 4));
    }

    #[test]
    fn every_mask_says_what_it_wants() {
        let mut batch = PackedBatch::default();
        batch.push(&[4], &[0], &Selection::TopK(2));
        batch.push(&[4], &[0], &Selection::Tokens([9, 7].into()));
        batch.push(&[4], &[0], &Selection::TopK(4));
        let wanted = &batch.lists(5, 3, |rows| rows).wanted[0];
        assert_eq!(wanted.top, 2);
        assert_eq!(wanted.tokens, [9, 7]);
        assert_eq!(wanted.token_bounds, [0, 0, 2, 2]);
        // The third wants more than is found, so it is told all.
        assert_eq!((&wanted.whole[..], wanted.whole_count), (&[2][..], 1));
        let masks = HEAD_ROWS_MAX + 6;
        let mut batch = PackedBatch::default();
        batch.push(&vec![4; masks], &(0..masks).collect::<Vec<_>>(), &Selection::TopK(1));
        let parts = batch.lists(5, 3, |rows| rows.next_multiple_of(16)).wanted;
        let rows: Vec<_> = parts.iter().map(|part| (part.rows, part.rows_padded)).collect();
        assert_eq!(rows, [(HEAD_ROWS_MAX, HEAD_ROWS_MAX), (6, 16)]);
    }
}
