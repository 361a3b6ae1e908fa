//! What a forward pass is told beside the hidden states: lists of numbers, put onto the device all at once.

use super::Spans;

/// The lists of one batch: `R` holds numbers, `S` spans, each as its backend reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists<R, S> {
    /// Token ids, and whatever fills the batch up to its size.
    pub input_ids: R,
    /// Each token's place within its own text.
    pub position_ids: R,
    /// The rows of the masks, and whatever fills them up.
    pub mask_rows: R,
    /// Spans in which every token asks, as in all layers but the last.
    pub everywhere: S,
    /// Spans in which the masks alone ask, as in the last layer.
    pub masks_only: S,
    /// What the logits of the masks are asked for, for each part that goes through the head.
    pub wanted: Vec<Wanted<R>>,
}

/// The lists as they are made, on the host.
pub type HostLists = Lists<Vec<u32>, Spans>;

/// What some rows of logits are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<R> {
    /// Rows that are asked at all; what comes after them only fills up.
    pub rows: usize,
    /// Rows in all, as many as the logits have.
    pub rows_padded: usize,
    /// How many of the likeliest tokens each row tells.
    pub top: usize,
    /// Tokens whose logits are told, row after row.
    pub tokens: R,
    /// How many `tokens` are.
    pub token_count: usize,
    /// Where each row's `tokens` begin, and last where all end: `rows + 1` numbers.
    pub token_bounds: R,
    /// Rows whose logits are told one and all, in ascending order.
    pub whole: R,
    /// How many `whole` are.
    pub whole_count: usize,
}

impl<R> Wanted<R> {
    /// Numbers of the [summary](super::summary) of these rows, without those that are told whole.
    pub fn summary_len(&self) -> usize {
        self.rows * super::summary::row_len(self.top) + self.token_count
    }
}
