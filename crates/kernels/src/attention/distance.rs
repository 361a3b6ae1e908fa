//! The influence of the distance between query and key: windows and biases.

use super::Sequence;
use crate::isa::for_each_isa;
use crate::layout::NR;

/// The influence of the distance between query and key.
#[derive(Clone, Copy, Debug)]
pub struct ByDistance<'a> {
    /// For each query row the row of the same token among the keys, ascending within a sequence.
    pub query_tokens: &'a [u32],
    /// The largest distance of a key that a query attends to; `None` for all keys.
    pub window: Option<usize>,
    pub bias: Option<DistanceBias<'a>>,
}

/// Values that are added to the scaled scores.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<'a> {
    /// `[heads, 2 * span - 1]`: at column `span - 1 + query - key` the value of that distance.
    pub values: &'a [f32],
    /// More than the largest distance. With [`BLOCK`](Self::BLOCK) more, every block of queries is read as a whole.
    pub span: usize,
}

impl DistanceBias<'_> {
    /// Queries whose scores are computed at once.
    pub const BLOCK: usize = NR;
}

/// [`ByDistance`] for one head and one sequence.
#[derive(Clone, Copy)]
pub struct InSequence<'a> {
    query_tokens: &'a [u32],
    /// The first row of the sequence among the keys.
    first: usize,
    window: Option<usize>,
    /// Distance 0 is in the middle.
    bias: Option<&'a [f32]>,
}

impl<'a> ByDistance<'a> {
    /// The part of a head and a sequence.
    pub fn of(self, head: usize, sequence: &Sequence) -> InSequence<'a> {
        InSequence {
            query_tokens: &self.query_tokens[sequence.queries.clone()],
            first: sequence.tokens.start,
            window: self.window,
            bias: self.bias.map(|bias| {
                let columns = 2 * bias.span - 1;
                &bias.values[head * columns..(head + 1) * columns]
            }),
        }
    }

    /// # Panics
    /// If a query's token is not one of its sequence, or the biases do not cover a sequence.
    pub fn check(self, heads: usize, sequences: &[Sequence]) {
        for Sequence { queries, tokens } in sequences {
            let of_sequence = &self.query_tokens[queries.clone()];
            assert!(of_sequence.is_sorted() && of_sequence.iter().all(|&token| tokens.contains(&(token as usize))));
            assert!(self.bias.is_none_or(|bias| bias.span >= tokens.len()));
        }
        let has_all = |bias: DistanceBias<'_>| bias.span > 0 && bias.values.len() == heads * (2 * bias.span - 1);
        assert!(self.bias.is_none_or(has_all));
    }
}

impl<'a> InSequence<'a> {
    pub fn has_window(self) -> bool {
        self.window.is_some()
    }

    /// Up to 32 queries from `query` on.
    pub fn block(self, query: usize, count: usize) -> QueryBlock<'a> {
        let token = |column: usize| self.query_tokens[query + column.min(count - 1)] as i32 - self.first as i32;
        let tokens: [i32; NR] = std::array::from_fn(token);
        let bounds = self.window.map(|distance| {
            let distance = distance.min(i32::MAX as usize / 2) as i32;
            [
                tokens.map(|token| token - distance),
                tokens.map(|token| token.saturating_add(distance)),
            ]
        });
        QueryBlock {
            are_adjacent: tokens[..count].windows(2).all(|pair| pair[1] == pair[0] + 1),
            tokens,
            bounds,
            bias: self.bias,
        }
    }
}

/// Up to 32 queries, as rows of their sequence. Columns without a query repeat the last one.
pub struct QueryBlock<'a> {
    pub tokens: [i32; NR],
    pub are_adjacent: bool,
    /// The first and the last key of each query.
    pub bounds: Option<[[i32; NR]; 2]>,
    pub bias: Option<&'a [f32]>,
}

/// Replaces scores of keys out of `bounds` by −∞; row 0 is the key `first`.
#[inline(always)]
fn exclude_body(scores: &mut [[f32; NR]], first: i32, bounds: &[[i32; NR]; 2]) {
    for (key, row) in (first..).zip(scores) {
        for n in 0..NR {
            let is_near = bounds[0][n] <= key && key <= bounds[1][n];
            row[n] = if is_near { row[n] } else { f32::NEG_INFINITY };
        }
    }
}

/// Adds `factor` times the biases of the distances from the queries `tokens` to the keys; row 0 is the key `first`. The
/// flag says that the queries are adjacent.
#[inline(always)]
fn add_bias_body(
    scores: &mut [[f32; NR]],
    first: i32,
    (tokens, are_adjacent): (&[i32; NR], bool),
    bias: &[f32],
    factor: f32,
) {
    let middle = (bias.len() / 2) as i32;
    for (key, row) in (first..).zip(scores) {
        let at = |token: i32| (middle + token - key) as usize;
        let together = bias.get(at(tokens[0])..).and_then(|from| from.first_chunk::<NR>());
        match together {
            Some(together) if are_adjacent => {
                for n in 0..NR {
                    row[n] += factor * together[n];
                }
            }
            _ => {
                for n in 0..NR {
                    row[n] += factor * bias[at(tokens[n])];
                }
            }
        }
    }
}

for_each_isa! {
    pub fn exclude(scores: &mut [[f32; NR]], first: i32, bounds: &[[i32; NR]; 2]) = exclude_body
}
for_each_isa! {
    pub fn add_bias(scores: &mut [[f32; NR]], first: i32, tokens: (&[i32; NR], bool), bias: &[f32], factor: f32) = add_bias_body
}
