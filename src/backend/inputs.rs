//! Index inputs of one forward pass: token ids, positions, offsets, readout. They are made on the host and uploaded in
//! a single write.

use std::borrow::Cow;
use std::ops::Range;

/// The index inputs of one packed batch, on the host.
///
/// A row is the index of a token in the batch. `token_ids`, `position_ids` and `readout_rows` may end with padding,
/// which belongs to no sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardInputs {
    pub token_ids: Vec<u32>,
    /// Each token's row of the position table.
    pub position_ids: Vec<u32>,
    /// Rows whose logits are read.
    pub readout_rows: Vec<u32>,
    /// First row of each sequence, and at the end the number of rows without padding.
    pub token_offsets: Vec<usize>,
    /// First entry of each sequence in `readout_rows`, and at the end their number without padding.
    pub readout_offsets: Vec<usize>,
    /// One for each chunk of `readout_rows` that passes through the head at once.
    pub readouts: Vec<ReadoutSpec>,
}

/// One list of [`ForwardInputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexList {
    TokenIds,
    PositionIds,
    ReadoutRows,
    /// [`ReadoutSpec::full_rows`] of the chunk with this index.
    FullRows(usize),
}

/// The rows of which attention computes queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryRows {
    /// Every token, as in all layers but the last.
    All,
    /// The readout rows, as in the last layer.
    ReadoutOnly,
}

impl ForwardInputs {
    pub fn indices(&self, list: IndexList) -> &[u32] {
        match list {
            IndexList::TokenIds => &self.token_ids,
            IndexList::PositionIds => &self.position_ids,
            IndexList::ReadoutRows => &self.readout_rows,
            IndexList::FullRows(chunk) => &self.readouts[chunk].full_rows,
        }
    }

    /// The row of the position table of each query.
    pub fn positions(&self, rows: QueryRows) -> Cow<'_, [u32]> {
        match rows {
            QueryRows::All => Cow::Borrowed(&self.position_ids),
            QueryRows::ReadoutOnly => {
                let rows = self.readout_rows.iter();
                rows.map(|&row| self.position_ids[row as usize]).collect()
            }
        }
    }

    /// The rows of the batch that are queries.
    pub fn query_rows(&self, rows: QueryRows) -> Cow<'_, [u32]> {
        match rows {
            QueryRows::All => (0..self.token_ids.len() as u32).collect(),
            QueryRows::ReadoutOnly => Cow::Borrowed(&self.readout_rows),
        }
    }

    pub fn offsets(&self, rows: QueryRows) -> SequenceOffsets<'_> {
        SequenceOffsets {
            queries: match rows {
                QueryRows::All => &self.token_offsets,
                QueryRows::ReadoutOnly => &self.readout_offsets,
            },
            keys: &self.token_offsets,
        }
    }
}

impl AsRef<ForwardInputs> for ForwardInputs {
    fn as_ref(&self) -> &ForwardInputs {
        self
    }
}

/// Which rows of a packed batch belong to which sequence.
///
/// Sequence `i` owns the query rows `queries[i]..queries[i + 1]` and the key and value rows `keys[i]..keys[i + 1]`.
/// Both lists start with 0, ascend, and have one entry more than there are sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceOffsets<'a> {
    pub queries: &'a [usize],
    pub keys: &'a [usize],
}

impl<'a> SequenceOffsets<'a> {
    /// The query rows and the key rows of each sequence.
    pub fn iter(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + 'a {
        let ranges = |offsets: &'a [usize]| offsets.windows(2).map(|pair| pair[0]..pair[1]);
        ranges(self.queries).zip(ranges(self.keys))
    }
}

/// Readout request for one chunk of rows: `top_k` for every row, given tokens for some (in CSR form), and rows whose
/// logits are read in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadoutSpec {
    /// Rows that are read, 0 for a chunk of pooled rows alone; the rest of the chunk is padding.
    pub rows: usize,
    /// Rows of the chunk's logits.
    pub padded_rows: usize,
    /// Number of most probable tokens that are read of every row.
    pub top_k: usize,
    /// Tokens whose logits are read, row after row.
    pub token_ids: Vec<u32>,
    /// First entry of each row in `token_ids`, and at the end their number: `rows + 1` entries.
    pub row_offsets: Vec<u32>,
    /// Rows whose logits are read in full, ascending.
    pub full_rows: Vec<u32>,
}
