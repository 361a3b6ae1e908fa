//! Softmax attention within each sequence. A task is one head of one sequence, computed with the micro-kernels of the
//! dense layers.
//!
//! Scores are computed with the queries as columns: a tile has the scores of some keys for 32 queries, so the softmax
//! runs over whole registers. The second product takes the same columns as its rows and the values as its columns, both
//! without rearranging them.

use std::cell::RefCell;
use std::ops::Range;

use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::epilogue::Epilogue;
use crate::gemm::Gemm;
use crate::isa::{Isa, for_each_isa};
use crate::kernel::{Block, Operands, Rows};
use crate::layout::{
    K_BLOCK, KLayout, Line, MR, NR, Precision, RowBlocks, ZERO_LINE, ZERO_TILE, f32_rows_mut, rows_mut,
};
use crate::math::exp;
use crate::rounding::{bf16_bits, bf16_bits_of_number};
use crate::scratch::grow_to;

/// The rows of a sequence in a packed batch.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Among the queries.
    pub queries: Range<usize>,
    /// Among the keys and values.
    pub tokens: Range<usize>,
}

/// The heads of an attention, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub count: usize,
    /// Columns of all heads together.
    pub hidden: usize,
    /// Below f32, products are of bf16 on CPUs that have them, otherwise of f32.
    pub precision: Precision,
}

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

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    /// Keys, packed as blocks of rows.
    keys: Vec<u32>,
    /// Values, packed as panels along the tokens.
    values: Vec<Line>,
    /// Up to 32 queries, packed as a block.
    query_rows: Vec<u32>,
    /// The same as a panel.
    queries: Vec<Line>,
    /// By key, a row for 32 queries.
    scores: Vec<Line>,
    /// The same as a panel of bf16, two keys a K-step.
    bf16_scores: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The columns of a head in rows of `hidden` (queries) or `2 * hidden` values (keys, then values).
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub hidden: usize,
    /// The first column.
    pub start: usize,
    /// The number of columns.
    pub size: usize,
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Without it every query attends to all keys by their content alone.
    pub distance: Option<InSequence<'a>>,
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
    /// Up to 32 queries from `query` on.
    fn block(self, query: usize, count: usize) -> QueryBlock<'a> {
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
struct QueryBlock<'a> {
    tokens: [i32; NR],
    are_adjacent: bool,
    /// The first and the last key of each query.
    bounds: Option<[[i32; NR]; 2]>,
    bias: Option<&'a [f32]>,
}

/// `softmax(query · keyᵀ / √size) · value` for each head: `query` is `[query rows, hidden]`, `key_value`
/// `[token rows, 2 * hidden]` with the keys first. Writes `[query rows, hidden]` to `output`.
///
/// # Panics
/// If the sizes do not match, or if the queries of the sequences are not all rows, in order.
pub fn attention(
    context: Context<'_>,
    heads: Heads,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    attend_all(context, heads, None, query, key_value, sequences, output);
}

/// [`attention()`] with a window or a bias by distance. With a window its work grows with the window, not with the
/// sequence.
///
/// # Panics
/// As [`attention()`], if a query's token is not one of its sequence, or if the biases do not cover a sequence.
pub fn attention_by_distance(
    context: Context<'_>,
    heads: Heads,
    distance: ByDistance<'_>,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    distance.check(heads.count, sequences);
    attend_all(context, heads, Some(distance), query, key_value, sequences, output);
}

fn attend_all(
    context: Context<'_>,
    heads: Heads,
    distance: Option<ByDistance<'_>>,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    let Heads {
        count,
        hidden,
        precision,
    } = heads;
    assert!(hidden.is_multiple_of(count) && query.len().is_multiple_of(hidden) && output.len() == query.len());
    // Each row is written by one sequence.
    let mut written = 0;
    for Sequence { queries, .. } in sequences {
        assert!(written == queries.start && queries.start <= queries.end);
        written = queries.end;
    }
    assert!(written == query.len() / hidden);
    let size = hidden / count;
    let gemm = attention_gemm(context.isa, precision);
    let with_queries: Vec<&Sequence> = sequences
        .iter()
        .filter(|sequence| !sequence.queries.is_empty())
        .collect();
    let shared = Disjoint::new(output);
    context.pool.run(with_queries.len() * count, |task| {
        let sequence = with_queries[task / count];
        let head = Head {
            hidden,
            start: task % count * size,
            size,
            tokens: sequence.tokens.len(),
            distance: distance.map(|distance| distance.of(task % count, sequence)),
        };
        let key_value = &key_value[sequence.tokens.start * 2 * hidden..sequence.tokens.end * 2 * hidden];
        let query = &query[sequence.queries.start * hidden..sequence.queries.end * hidden];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.attend(context.isa, gemm, head, query, key_value, |row, dimension, columns| {
                let start = (sequence.queries.start + row) * hidden + head.start + dimension;
                // SAFETY: each task has its own columns of the rows of its sequence, which no other sequence has.
                unsafe { OutputTile::shared(&shared, start, hidden, columns) }
            });
        });
    });
}

/// The products of an attention in this precision: bf16 below f32 if the CPU has them, otherwise f32.
pub fn attention_gemm(isa: Isa, precision: Precision) -> Gemm {
    let precision = match precision {
        Precision::Bf16 | Precision::Int8 if isa >= Isa::Avx512Bf16 => Precision::Bf16,
        _ => Precision::F32,
    };
    Gemm::new(isa, precision)
}

impl Scratch {
    /// Computes a head of a sequence, whose rows are `query` and `key_value`. Tiles of the result are stored in
    /// `output(first row, first dimension, columns)`.
    pub fn attend<'a>(
        &mut self,
        isa: Isa,
        gemm: Gemm,
        head: Head<'_>,
        query: &[f32],
        key_value: &[f32],
        output: impl Fn(usize, usize, usize) -> OutputTile<'a>,
    ) {
        self.pack(isa, gemm, head, key_value);
        for (index, query) in query.chunks(NR * head.hidden).enumerate() {
            let count = query.len() / head.hidden;
            let block = head.distance.map(|distance| distance.block(index * NR, count));
            self.attend_some(isa, gemm, head, block.as_ref(), query, |row, dimension, columns| {
                output(index * NR + row, dimension, columns)
            });
        }
    }

    /// Packs the keys and values of a head.
    fn pack(&mut self, isa: Isa, gemm: Gemm, head: Head<'_>, key_value: &[f32]) {
        let Head {
            hidden,
            start,
            size,
            tokens,
            ..
        } = head;
        let stride = 2 * hidden;
        let row_elements = row_elements(gemm.layout(size));
        let keys = grow_to(&mut self.keys, tokens * row_elements, 0);
        let blocks = RowBlocks::even(tokens, MR);
        for index in 0..blocks.count() {
            let range = blocks.range(index);
            let packed = &mut keys[range.start * row_elements..range.end * row_elements];
            let rows = Rows {
                x: &key_value[range.start * stride + start..],
                stride,
                inputs: size,
                count: range.len(),
                stored: range.len(),
            };
            gemm.pack_rows(rows, packed, &mut []);
        }
        let steps = tokens.div_ceil(gemm.precision().values_per_element());
        let panels = size.div_ceil(NR);
        let values = grow_to(&mut self.values, panels * steps * 2, ZERO_LINE);
        for (panel, lines) in values.chunks_exact_mut(steps * 2).enumerate() {
            let first = panel * NR;
            let columns = (size - first).min(NR);
            let from = hidden + start + first;
            match gemm.precision() {
                Precision::Bf16 => pack_values_bf16(isa, key_value, stride, from, columns, lines),
                _ => pack_values_f32(isa, key_value, stride, from, columns, lines),
            }
        }
    }

    /// Computes up to 32 query rows of a head whose keys and values are packed.
    fn attend_some<'a>(
        &mut self,
        isa: Isa,
        gemm: Gemm,
        head: Head<'_>,
        block: Option<&QueryBlock<'_>>,
        query: &[f32],
        output: impl Fn(usize, usize, usize) -> OutputTile<'a>,
    ) {
        let Head {
            hidden,
            start,
            size,
            tokens,
            ..
        } = head;
        let rows = query.len() / hidden;
        let row_elements = row_elements(gemm.layout(size));
        const K_BLOCK_ELEMENTS: usize = NR * K_BLOCK;
        let packed = grow_to(&mut self.query_rows, NR * row_elements, 0);
        let query_rows = Rows {
            x: &query[start..],
            stride: hidden,
            inputs: size,
            count: rows,
            stored: NR,
        };
        gemm.pack_rows(query_rows, packed, &mut []);
        let queries = grow_to(&mut self.queries, row_elements * 2, ZERO_LINE);
        let k_blocks = packed.chunks_exact(K_BLOCK_ELEMENTS);
        for (rows, columns) in k_blocks.zip(queries.chunks_exact_mut(2 * K_BLOCK)) {
            transpose(isa, rows, rows_mut(columns));
        }
        let queries = &queries[..size.div_ceil(gemm.precision().values_per_element()) * 2];
        let blocks = RowBlocks::even(tokens, MR);
        let per_element = gemm.precision().values_per_element();
        let bounds = block.and_then(|block| block.bounds.as_ref());
        // The packed blocks that hold keys of the window, from a whole K-step on.
        let (some_blocks, keys) = match bounds {
            None => (0..blocks.count(), 0..tokens),
            Some([first, last]) => {
                let first = first.iter().min().map_or(0, |&key| key.max(0) as usize);
                let last = last.iter().max().map_or(0, |&key| key.max(0) as usize).min(tokens - 1);
                let some = blocks.holding(first)..blocks.holding(last) + 1;
                let begin = blocks.start(some.start);
                (some.clone(), begin - begin % per_element..blocks.start(some.end))
            }
        };
        let scores = grow_to(&mut self.scores, keys.len() * 2, ZERO_LINE);
        for index in some_blocks {
            let block = blocks.range(index);
            let operands = Operands {
                block: Block::Rows {
                    elements: &self.keys[block.start * row_elements..block.end * row_elements],
                    rows: block.len(),
                },
                panel: queries,
                prefetch: &[],
            };
            gemm.sums(
                &operands,
                &mut rows_mut(scores)[block.start - keys.start..block.end - keys.start],
            );
        }
        if let Some(bounds) = bounds {
            exclude(isa, f32_rows_mut(scores), keys.start as i32, bounds);
        }
        let root = (size as f32).sqrt();
        if let Some(block) = block
            && let Some(bias) = block.bias
        {
            let tokens = (&block.tokens, block.are_adjacent);
            add_bias(isa, f32_rows_mut(scores), keys.start as i32, tokens, bias, root);
        }
        let scale = 1.0 / root;
        let mut factors = [0.0; NR];
        softmax(isa, f32_rows_mut(scores), scale, &mut factors);
        let probabilities: &[Line] = match gemm.precision() {
            Precision::Bf16 => {
                let pairs = grow_to(&mut self.bf16_scores, keys.len().div_ceil(2) * 2, ZERO_LINE);
                pack_scores_bf16(isa, f32_rows_mut(scores), pairs);
                pairs
            }
            _ => scores,
        };
        let mut tile = ZERO_TILE;
        let blocks = RowBlocks::even(rows, MR);
        let panels = self.values.chunks_exact(tokens.div_ceil(per_element) * 2);
        let first_line = keys.start / per_element * 2;
        for (panel, first) in panels.zip((0..size).step_by(NR)) {
            let panel = &panel[first_line..first_line + probabilities.len()];
            for index in 0..blocks.count() {
                let range = blocks.range(index);
                let operands = Operands {
                    block: Block::Columns {
                        panel: probabilities,
                        first: range.start,
                        rows: range.len(),
                    },
                    panel,
                    prefetch: &[],
                };
                let output = output(range.start, first, (size - first).min(NR));
                gemm.store(
                    &operands,
                    &Epilogue::RowFactors(&factors[range]),
                    None,
                    output,
                    &mut tile,
                );
            }
        }
    }
}

/// Elements of a packed row.
fn row_elements(layout: KLayout) -> usize {
    layout.k_blocks * layout.row_elements
}

/// Transposes a K-block of rows, `[32][16]`, to columns, `[16][32]`.
#[inline(always)]
fn transpose_body(rows: &[u32], columns: &mut [[u32; NR]]) {
    for (lane, row) in rows.chunks_exact(K_BLOCK).enumerate() {
        for (column, element) in columns.iter_mut().zip(row) {
            column[lane] = *element;
        }
    }
}

/// Packs values as a panel of f32: `columns` of each row of `x`, from `start` on.
#[inline(always)]
fn pack_values_f32_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    for (row, lines) in x.chunks_exact(stride).zip(f32_rows_mut(lines)) {
        let row = &row[start..start + columns];
        match <&[f32; NR]>::try_from(row) {
            Ok(whole) => *lines = *whole,
            Err(_) => lines[..columns].copy_from_slice(row),
        }
    }
}

/// Packs values as a panel of bf16, two rows a K-step; zeros take the place of a missing second row.
#[inline(always)]
fn pack_values_bf16_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    let mut steps = rows_mut(lines).iter_mut();
    for rows in x.chunks(2 * stride) {
        let step = steps.next().expect("a K-step for two rows");
        let mut pair = [[0.0; NR]; 2];
        for (values, row) in pair.iter_mut().zip(rows.chunks_exact(stride)) {
            let row = &row[start..start + columns];
            match <&[f32; NR]>::try_from(row) {
                Ok(whole) => *values = *whole,
                Err(_) => values[..columns].copy_from_slice(row),
            }
        }
        for n in 0..NR {
            step[n] = bf16_bits(pair[0][n]) | bf16_bits(pair[1][n]) << 16;
        }
    }
}

/// Packs rows of non-negative f32 as a panel of bf16, two rows a K-step.
#[inline(always)]
fn pack_scores_bf16_body(rows: &[[f32; NR]], lines: &mut [Line]) {
    for (rows, step) in rows.chunks(2).zip(rows_mut(lines)) {
        let second = rows.get(1).unwrap_or(&[0.0; NR]);
        for n in 0..NR {
            step[n] = bf16_bits_of_number(rows[0][n]) | bf16_bits_of_number(second[n]) << 16;
        }
    }
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

/// Replaces scores by `e^(scale · (score - max))`, the maximum being that of the column; `factors` receives the
/// reciprocal of each column's sum.
#[inline(always)]
fn softmax_body<const FMA: bool>(scores: &mut [[f32; NR]], scale: f32, factors: &mut [f32; NR]) {
    let mut max = [f32::NEG_INFINITY; NR];
    for row in scores.iter() {
        for n in 0..NR {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    let mut sums = [0.0; NR];
    for row in scores {
        for n in 0..NR {
            row[n] = exp::<FMA>((row[n] - max[n]) * scale);
            sums[n] += row[n];
        }
    }
    *factors = sums.map(|sum| 1.0 / sum);
}

for_each_isa! {
    fn transpose(rows: &[u32], columns: &mut [[u32; NR]]) = transpose_body
}
for_each_isa! {
    fn pack_values_f32(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = pack_values_f32_body
}
for_each_isa! {
    fn pack_values_bf16(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = pack_values_bf16_body
}
for_each_isa! {
    fn pack_scores_bf16(rows: &[[f32; NR]], lines: &mut [Line]) = pack_scores_bf16_body
}
for_each_isa! {
    fn softmax(scores: &mut [[f32; NR]], scale: f32, factors: &mut [f32; NR]) = fused softmax_body
}
for_each_isa! {
    fn add_bias(scores: &mut [[f32; NR]], first: i32, tokens: (&[i32; NR], bool), bias: &[f32], factor: f32) = add_bias_body
}
for_each_isa! {
    fn exclude(scores: &mut [[f32; NR]], first: i32, bounds: &[[i32; NR]; 2]) = exclude_body
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements of the scores' buffer after the attention of one head of 32 columns.
    fn score_lines(tokens: usize, window: Option<usize>) -> usize {
        let query_tokens: Vec<u32> = (0..tokens as u32).collect();
        let distance = ByDistance {
            query_tokens: &query_tokens,
            window,
            bias: None,
        };
        let sequence = Sequence {
            queries: 0..tokens,
            tokens: 0..tokens,
        };
        let head = Head {
            hidden: NR,
            start: 0,
            size: NR,
            tokens,
            distance: Some(distance.of(0, &sequence)),
        };
        let (query, key_value) = (vec![0.5; tokens * NR], vec![0.5; tokens * 2 * NR]);
        let mut output = vec![0.0; tokens * NR];
        let output = Disjoint::new(&mut output);
        let isa = Isa::detected();
        let mut scratch = Scratch::default();
        scratch.attend(
            isa,
            attention_gemm(isa, Precision::F32),
            head,
            &query,
            &key_value,
            |row, dimension, columns| {
                // SAFETY: one thread, and one tile at a time.
                unsafe { OutputTile::shared(&output, row * NR + dimension, NR, columns) }
            },
        );
        scratch.scores.len()
    }

    #[test]
    fn scores_of_a_block_of_queries_exist_at_once_and_none_beyond_the_window() {
        let line_pair = 2;
        assert_eq!(score_lines(4096, None), 4096 * line_pair);
        // The window of the first and of the last query of a block, and whole blocks of keys.
        assert!(score_lines(4096, Some(64)) <= (2 * 64 + NR + 2 * MR) * line_pair);
    }
}
