//! Input and output of a model: sequences packed end to end, and scores of tokens at their readout positions.

use std::sync::Arc;

use super::Demand;
use crate::backend::{EncoderBackend, ForwardInputs, Pooling, ReadoutSpec};
use crate::encoder::PositionRule;

/// Readout rows that pass through the head at once. It bounds the memory of the logits: 64 rows of bert-base's 30,522
/// entries are 7.8 MB.
pub(super) const HEAD_ROWS_MAX: usize = 64;

/// One tokenized text, and the positions that the model scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Special tokens included.
    pub token_ids: Vec<u32>,
    pub readout: Readout,
}

impl Sequence {
    /// The sequence `token_ids`, read at `positions`, ascending.
    pub fn new(token_ids: impl Into<Vec<u32>>, positions: impl Into<Vec<usize>>, select: Select) -> Self {
        Self {
            token_ids: token_ids.into(),
            readout: Readout {
                positions: positions.into(),
                select,
                with_own: false,
            },
        }
    }

    /// Reads the token that is at each position too, after the selected ones.
    pub fn with_own(mut self) -> Self {
        self.readout.with_own = true;
        self
    }

    /// Length in tokens.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }
}

/// Positions of a sequence at which the model's distribution is read, and the selection of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readout {
    /// Indices into the sequence's tokens, ascending.
    pub positions: Vec<usize>,
    pub select: Select,
    /// The last score of a position is that of the token at that position.
    pub with_own: bool,
}

impl Readout {
    /// The rows of scores that the model returns.
    pub fn rows(&self) -> usize {
        match self.select {
            Select::Pool(_) => 1,
            Select::TopK(_) | Select::Tokens(_) => self.positions.len(),
        }
    }

    /// The number of scores that the model returns, over all positions.
    pub fn scores(&self) -> usize {
        let of_position = match &self.select {
            Select::TopK(k) => *k,
            Select::Tokens(tokens) => tokens.len(),
            // As many as the text turns out to have.
            Select::Pool(_) => 0,
        };
        self.positions.len() * (of_position + usize::from(self.with_own))
    }
}

/// The tokens whose scores are read at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The `k` most probable tokens of the vocabulary, best first.
    TopK(usize),
    /// These tokens, in this order.
    Tokens(Arc<[u32]>),
    /// One row for the whole sequence: the weight of each token of the vocabulary, pooled over the positions. Tokens of
    /// weight 0 are left out, the others ascend. The scores hold the weights in place of log-probabilities.
    Pool(Pooling),
}

/// The selection that is read of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowSelect {
    pub select: Select,
    /// A further token.
    pub own: Option<u32>,
}

impl From<Select> for RowSelect {
    fn from(select: Select) -> Self {
        Self { select, own: None }
    }
}

/// A token and its log-probability: the log-softmax over the whole vocabulary, whatever was selected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    pub token: u32,
    /// Natural logarithm of the probability; at most 0.
    pub log_prob: f32,
}

impl TokenScore {
    /// The probability, 0 to 1.
    pub fn probability(&self) -> f32 {
        f64::from(self.log_prob).exp() as f32
    }
}

/// The scores of one sequence: for each readout position in order, the selected tokens.
pub type Scores = Vec<Vec<TokenScore>>;

/// Sequences packed end to end, without padding. A row is the index of a token in the batch.
#[derive(Clone, Debug)]
pub struct Batch {
    token_ids: Vec<u32>,
    /// First row of each sequence, and at the end the number of rows.
    token_offsets: Vec<usize>,
    /// Rows that are read, ascending.
    readout_rows: Vec<u32>,
    /// First readout row of each sequence in `readout_rows`, and at the end their number.
    readout_offsets: Vec<usize>,
    /// One for each sequence.
    selects: Vec<Select>,
    /// One for each sequence: whether the token at each position is read too.
    with_own: Vec<bool>,
    demand: Vec<Demand>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            token_ids: Vec::new(),
            token_offsets: vec![0],
            readout_rows: Vec::new(),
            readout_offsets: vec![0],
            selects: Vec::new(),
            with_own: Vec::new(),
            demand: Vec::new(),
        }
    }
}

impl Batch {
    /// Adds a sequence at the end.
    pub fn push(&mut self, sequence: &Sequence) {
        let Sequence { token_ids, readout } = sequence;
        let Readout {
            positions,
            select,
            with_own,
        } = readout;
        debug_assert!(positions.is_sorted() && positions.iter().all(|&position| position < token_ids.len()));
        let start = self.token_ids.len();
        self.token_ids.extend_from_slice(token_ids);
        self.token_offsets.push(self.token_ids.len());
        let rows = positions.iter().map(|position| (start + position) as u32);
        self.readout_rows.extend(rows);
        self.readout_offsets.push(self.readout_rows.len());
        self.selects.push(select.clone());
        self.with_own.push(*with_own);
    }

    /// Lets the model stop when none of the requests waits any more.
    pub fn needed_by(&mut self, demand: impl IntoIterator<Item = Demand>) {
        self.demand.extend(demand);
    }

    /// False once none of the requests of [`needed_by`](Self::needed_by) waits.
    pub fn is_needed(&self) -> bool {
        Demand::any_waits(&self.demand)
    }

    /// The requests of [`needed_by`](Self::needed_by).
    pub(super) fn take_demand(&mut self) -> Vec<Demand> {
        std::mem::take(&mut self.demand)
    }

    /// Token ids of all sequences, end to end.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// Rows that are read, of all sequences, ascending.
    pub fn readout_rows(&self) -> &[u32] {
        &self.readout_rows
    }

    /// Every sequence's readout rows and what is read there.
    pub fn readouts(&self) -> impl Iterator<Item = (&[u32], &Select)> {
        let bounds = self.readout_offsets.windows(2);
        let rows = bounds.map(|bounds| &self.readout_rows[bounds[0]..bounds[1]]);
        rows.zip(&self.selects)
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.selects.len()
    }

    /// The selection of each readout row, in order.
    pub(super) fn row_selects(&self) -> Vec<RowSelect> {
        let readouts = self.readouts().zip(&self.with_own);
        let selects = readouts.flat_map(|((rows, select), &with_own)| {
            rows.iter().map(move |&row| RowSelect {
                select: select.clone(),
                own: with_own.then(|| self.token_ids[row as usize]),
            })
        });
        selects.collect()
    }

    /// Readout rows of each sequence.
    pub(super) fn readout_counts(&self) -> Vec<usize> {
        let bounds = self.readout_offsets.windows(2);
        bounds.map(|bounds| bounds[1] - bounds[0]).collect()
    }

    /// Each token's row of the position table, from the first one that sequences use.
    fn position_ids(&self, rule: PositionRule) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.token_ids.len());
        for bounds in self.token_offsets.windows(2) {
            match rule {
                PositionRule::Index => ids.extend(0..(bounds[1] - bounds[0]) as u32),
                PositionRule::SkipPadding { pad_token } => {
                    let mut tokens = 0;
                    ids.extend(self.token_ids[bounds[0]..bounds[1]].iter().map(|&token| {
                        let is_token = u32::from(token != pad_token);
                        tokens += is_token;
                        tokens * is_token
                    }));
                }
            }
        }
        ids
    }

    /// The index inputs of the forward pass on backend `B`, padded to its row counts. Padding is token 0 at position 0
    /// and belongs to no sequence.
    pub(super) fn into_inputs<B: EncoderBackend>(self, vocab_size: usize, rule: PositionRule) -> ForwardInputs {
        self.padded(B::TOP_K_MAX.min(vocab_size), rule, B::padded_rows)
    }

    pub(super) fn padded(
        self,
        top_k_max: usize,
        rule: PositionRule,
        padded_rows: impl Fn(usize) -> usize,
    ) -> ForwardInputs {
        let selects = self.row_selects();
        let mut position_ids = self.position_ids(rule);
        let (mut token_ids, mut readout_rows) = (self.token_ids, self.readout_rows);
        token_ids.resize(padded_rows(token_ids.len()), 0);
        position_ids.resize(token_ids.len(), 0);
        readout_rows.resize(padded_rows(readout_rows.len()), 0);
        let mut rows_left = readout_rows.len();
        let chunks = selects.chunks(HEAD_ROWS_MAX).map(|selects| {
            let padded_rows = rows_left.min(HEAD_ROWS_MAX);
            rows_left -= padded_rows;
            readout_spec(selects, padded_rows, top_k_max)
        });
        ForwardInputs {
            readouts: chunks.collect(),
            token_ids,
            position_ids,
            readout_rows,
            token_offsets: self.token_offsets,
            readout_offsets: self.readout_offsets,
        }
    }
}

/// The readout of one chunk of rows. A row of which more tokens are selected than the backend finds is read in full. A
/// chunk whose rows are all pooled is not read.
fn readout_spec(selects: &[RowSelect], padded_rows: usize, top_k_max: usize) -> ReadoutSpec {
    let is_pooled = |row: &RowSelect| matches!(row.select, Select::Pool(_));
    let mut spec = ReadoutSpec {
        rows: match selects.iter().all(is_pooled) {
            true => 0,
            false => selects.len(),
        },
        padded_rows,
        top_k: 0,
        token_ids: Vec::new(),
        row_offsets: vec![0],
        full_rows: Vec::new(),
    };
    for (row, RowSelect { select, own }) in selects[..spec.rows].iter().enumerate() {
        match select {
            Select::TopK(k) if *k <= top_k_max => spec.top_k = spec.top_k.max(*k),
            Select::TopK(_) => spec.full_rows.push(row as u32),
            Select::Pool(_) => {}
            Select::Tokens(tokens) => spec.token_ids.extend_from_slice(tokens),
        }
        spec.token_ids.extend(own);
        spec.row_offsets.push(spec.token_ids.len() as u32);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::QueryRows;

    fn batch(sequences: &[(&[u32], &[usize], Select)]) -> Batch {
        let mut batch = Batch::default();
        for (token_ids, positions, select) in sequences {
            batch.push(&Sequence::new(*token_ids, *positions, select.clone()));
        }
        batch
    }

    #[test]
    fn sequences_are_packed_end_to_end() {
        let batch = batch(&[
            (&[2, 4, 3], &[1], Select::TopK(5)),
            (&[2, 4, 9, 4, 3], &[1, 3], Select::TopK(1)),
        ]);
        assert_eq!(batch.sequences(), 2);
        assert_eq!(batch.token_ids(), [2, 4, 3, 2, 4, 9, 4, 3]);
        assert_eq!(batch.readout_rows(), [1, 4, 6]);
        let inputs = batch.padded(64, PositionRule::Index, |rows| rows);
        assert_eq!(inputs.token_ids, [2, 4, 3, 2, 4, 9, 4, 3]);
        assert_eq!(inputs.position_ids, [0, 1, 2, 0, 1, 2, 3, 4]);
        assert_eq!(inputs.readout_rows, [1, 4, 6]);
        let (all, last) = (inputs.offsets(QueryRows::All), inputs.offsets(QueryRows::ReadoutOnly));
        assert_eq!(all.queries, [0, 3, 8]);
        assert_eq!(last.queries, [0, 1, 3]);
        assert_eq!(last.keys, [0, 3, 8]);
    }

    #[test]
    fn padding_belongs_to_no_sequence() {
        let batch = batch(&[(&[2, 4, 3], &[1], Select::TopK(5))]);
        let inputs = batch.padded(64, PositionRule::Index, |rows| rows.next_multiple_of(4));
        assert_eq!(inputs.token_ids, [2, 4, 3, 0]);
        assert_eq!(inputs.position_ids, [0, 1, 2, 0]);
        assert_eq!(inputs.readout_rows, [1, 0, 0, 0]);
        assert_eq!(inputs.token_offsets, [0, 3]);
        assert_eq!(inputs.readout_offsets, [0, 1]);
        assert_eq!((inputs.readouts[0].rows, inputs.readouts[0].padded_rows), (1, 4));
    }

    #[test]
    fn every_readout_row_has_its_own_selection() {
        let three = batch(&[
            (&[4], &[0], Select::TopK(2)),
            (&[4], &[0], Select::Tokens([9, 7].into())),
            (&[4], &[0], Select::TopK(4)),
        ]);
        let spec = &three.padded(3, PositionRule::Index, |rows| rows).readouts[0];
        assert_eq!(spec.top_k, 2);
        assert_eq!(spec.token_ids, [9, 7]);
        assert_eq!(spec.row_offsets, [0, 0, 2, 2]);
        // The third selects more than the backend finds, so it is read in full.
        assert_eq!(spec.full_rows, [2]);
        let rows = HEAD_ROWS_MAX + 6;
        let positions: Vec<usize> = (0..rows).collect();
        let long = batch(&[(&vec![4; rows], &positions, Select::TopK(1))]);
        let chunks = long
            .padded(3, PositionRule::Index, |rows| rows.next_multiple_of(16))
            .readouts;
        let rows: Vec<_> = chunks.iter().map(|chunk| (chunk.rows, chunk.padded_rows)).collect();
        assert_eq!(rows, [(HEAD_ROWS_MAX, HEAD_ROWS_MAX), (6, 16)]);
    }

    #[test]
    fn padding_tokens_in_a_text_take_no_position() {
        let mut batch = Batch::default();
        for tokens in [vec![0, 1, 1, 7], vec![0, 9]] {
            batch.push(&Sequence::new(tokens, [0], Select::TopK(1)));
        }
        let inputs = batch.padded(64, PositionRule::SkipPadding { pad_token: 1 }, |rows| rows);
        assert_eq!(inputs.position_ids, [1, 0, 0, 2, 1, 2]);
    }
}
