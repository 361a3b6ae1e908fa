//! Softmax attention within each segment, a task for each segment and head, with the dense layers' tiles.
//!
//! Everything is computed with the queries as columns: a tile gives the scores of some keys for 32 queries, so the
//! softmax runs over whole registers, and the probabilities lie as the tiles of the second product read them.

use std::cell::RefCell;
use std::ops::Range;

use crate::Context;
use crate::level::for_each_level;
use crate::math::exp;
use crate::pack::{self, Blocks, COLUMNS, Line, ROWS_MAX};
use crate::rows::Disjoint;
use crate::tile::{Sums, Words, tile};

/// A sequence's rows among those of a packed batch.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its rows among the queries.
    pub queries: Range<usize>,
    /// Its rows among the keys and values.
    pub tokens: Range<usize>,
}

/// What a thread needs for a head, kept so that no task allocates.
#[derive(Default)]
struct Scratch {
    /// Of the segment whose keys and values are packed.
    tokens: usize,
    /// Blocks of keys, each `[size][keys]`.
    keys: Vec<u32>,
    /// Blocks of the values' dimensions, each `[tokens][dimensions]`.
    values: Vec<u32>,
    /// A panel of queries, `[size]` steps.
    queries: Vec<Line>,
    /// A panel of scores, then of probabilities, `[tokens]` steps.
    scores: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where a head's numbers are in rows of `hidden` or `2 * hidden`.
#[derive(Clone, Copy)]
struct Head {
    hidden: usize,
    /// Its first column.
    start: usize,
    /// Its columns.
    size: usize,
}

/// `softmax(query · keyᵀ / √size) · value` for each head: `query` is `[query rows, hidden]`, `key_value`
/// `[token rows, 2 * hidden]` with the keys first, heads lie side by side. Returns `[query rows, hidden]`.
///
/// # Panics
/// When the sizes do not fit together, or the segments do not follow each other.
pub fn attention(
    context: Context<'_>,
    query: &[f32],
    key_value: &[f32],
    hidden: usize,
    segments: &[Segment],
    heads: usize,
) -> Vec<f32> {
    assert!(hidden.is_multiple_of(heads) && query.len().is_multiple_of(hidden));
    // Each row is written by one segment.
    let mut written = 0;
    for Segment { queries, .. } in segments {
        assert!(written <= queries.start && queries.start <= queries.end);
        written = queries.end;
    }
    assert!(written <= query.len() / hidden);
    let size = hidden / heads;
    let mut output = vec![0.0; query.len()];
    let is_asked = |segment: &&Segment| !segment.queries.is_empty();
    let segments: Vec<&Segment> = segments.iter().filter(is_asked).collect();
    let shared = Disjoint::new(&mut output);
    context.pool.run(segments.len() * heads, |task| {
        let segment = segments[task / heads];
        let head = Head {
            hidden,
            start: task % heads * size,
            size,
        };
        let key_value = &key_value[segment.tokens.start * 2 * hidden..segment.tokens.end * 2 * hidden];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.pack(context, head, key_value);
            for first in segment.queries.clone().step_by(COLUMNS) {
                let rows = first..segment.queries.end.min(first + COLUMNS);
                let query = &query[rows.start * hidden..rows.end * hidden];
                scratch.attend(context, head, query, |row, dimensions, values| {
                    let start = (first + row) * hidden + head.start + dimensions;
                    // SAFETY: a task has its own columns of its segment's rows, which no other segment has.
                    unsafe { shared.slice(start..start + values.len()) }.copy_from_slice(values);
                });
            }
        });
    });
    output
}

/// Grows a buffer to `len` at least and gives that much of it.
fn at_least<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    &mut buffer[..len]
}

impl Scratch {
    /// Packs a head's keys and values.
    fn pack(&mut self, context: Context<'_>, head: Head, key_value: &[f32]) {
        let Head { hidden, start, size } = head;
        let stride = 2 * hidden;
        let tokens = key_value.len() / stride;
        self.tokens = tokens;
        let blocks = Blocks::even(tokens, ROWS_MAX);
        let keys = at_least(&mut self.keys, tokens * size, 0);
        for index in 0..blocks.count() {
            let range = blocks.range(index);
            let packed = &mut keys[range.start * size..range.end * size];
            let rows = &key_value[range.start * stride + start..];
            pack::pack_f32(context.level, rows, stride, range.len(), size, packed);
        }
        let blocks = Blocks::even(size, ROWS_MAX);
        let values = at_least(&mut self.values, tokens * size, 0);
        for index in 0..blocks.count() {
            let range = blocks.range(index);
            let packed = &mut values[range.start * tokens..range.end * tokens];
            for (row, packed) in key_value.chunks_exact(stride).zip(packed.chunks_exact_mut(range.len())) {
                let row = &row[hidden + start..][range.clone()];
                packed
                    .iter_mut()
                    .zip(row)
                    .for_each(|(word, value)| *word = value.to_bits());
            }
        }
    }

    /// Computes up to 32 query rows, the packed keys and values given, and hands each row's parts to
    /// `write(row, first dimension, values)`.
    fn attend(&mut self, context: Context<'_>, head: Head, query: &[f32], mut write: impl FnMut(usize, usize, &[f32])) {
        let Head { hidden, start, size } = head;
        let level = context.level;
        let rows = query.len() / hidden;
        let tokens = self.tokens;
        let queries = at_least(&mut self.queries, size * 2, Line([0; 16]));
        for (lane, row) in query.chunks_exact(hidden).enumerate() {
            for (lines, value) in queries.chunks_exact_mut(2).zip(&row[start..start + size]) {
                lines[lane / 16].0[lane % 16] = value.to_bits();
            }
        }
        let scores = at_least(&mut self.scores, tokens * 2, Line([0; 16]));
        let mut sums: Sums = [[0; COLUMNS]; ROWS_MAX];
        let blocks = Blocks::even(tokens, ROWS_MAX);
        for index in 0..blocks.count() {
            let keys = blocks.range(index);
            let block = &self.keys[keys.start * size..keys.end * size];
            tile(level, Words::F32, block, keys.len(), queries, &[], &mut sums);
            for (lines, sums) in scores[keys.start * 2..keys.end * 2].chunks_exact_mut(2).zip(&sums) {
                lines[0].0.copy_from_slice(&sums[..16]);
                lines[1].0.copy_from_slice(&sums[16..]);
            }
        }
        let mut factors = [0.0; COLUMNS];
        softmax(
            level,
            pack::as_f32_rows(scores),
            1.0 / (size as f32).sqrt(),
            &mut factors,
        );
        let blocks = Blocks::even(size, ROWS_MAX);
        for index in 0..blocks.count() {
            let dimensions = blocks.range(index);
            let block = &self.values[dimensions.start * tokens..dimensions.end * tokens];
            tile(level, Words::F32, block, dimensions.len(), scores, &[], &mut sums);
            let mut values = [0.0; ROWS_MAX];
            for row in 0..rows {
                for (value, sums) in values.iter_mut().zip(&sums) {
                    *value = f32::from_bits(sums[row]) * factors[row];
                }
                write(row, dimensions.start, &values[..dimensions.len()]);
            }
        }
    }
}

/// Turns scores into `e^(scale · (score - max))` in place, column by column; `factors` receives what the columns
/// must be multiplied with to add up to one.
#[inline(always)]
fn softmax_body(scores: &mut [[f32; COLUMNS]], scale: f32, factors: &mut [f32; COLUMNS]) {
    let mut max = [f32::NEG_INFINITY; COLUMNS];
    for row in scores.iter() {
        for n in 0..COLUMNS {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    let mut sums = [0.0; COLUMNS];
    for row in scores {
        for n in 0..COLUMNS {
            row[n] = exp((row[n] - max[n]) * scale);
            sums[n] += row[n];
        }
    }
    *factors = sums.map(|sum| 1.0 / sum);
}

for_each_level! {
    fn softmax(scores: &mut [[f32; COLUMNS]], scale: f32, factors: &mut [f32; COLUMNS]) = softmax_body
}
