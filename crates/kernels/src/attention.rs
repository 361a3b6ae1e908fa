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
use crate::epilogue::{Epilogue, store};
use crate::gemm::Gemm;
use crate::isa::{Isa, for_each_isa};
use crate::kernel::{Block, Operands, Rows};
use crate::layout::{K_BLOCK, KLayout, Line, MR, NR, Precision, RowBlocks, ZERO_LINE, f32_rows_mut, rows_mut};
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

/// Keys whose scores for a block of queries exist at once. The scores of more would leave the second-level cache;
/// further keys are added with the online softmax: <https://arxiv.org/abs/1805.02867>.
const KEYS_AT_ONCE: usize = 2048;

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
    /// Sums of weighted values over the keys so far, for 32 queries of each value panel.
    mixed: Vec<Line>,
}

/// The softmax of 32 queries over the keys so far.
struct Online {
    max: [f32; NR],
    sums: [f32; NR],
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
        let blocks = RowBlocks::even(tokens, MR);
        // The packed blocks that hold keys of the window.
        let some_blocks = match block.and_then(|block| block.bounds.as_ref()) {
            None => 0..blocks.count(),
            Some([first, last]) => {
                let first = first.iter().min().map_or(0, |&key| key.max(0) as usize);
                let last = last.iter().max().map_or(0, |&key| key.max(0) as usize).min(tokens - 1);
                blocks.holding(first)..blocks.holding(last) + 1
            }
        };
        let scale = 1.0 / (size as f32).sqrt();
        let mut factors = [0.0; NR];
        let blocks_at_once = KEYS_AT_ONCE.div_ceil(MR);
        if some_blocks.len() <= blocks_at_once {
            let keys = self.score(isa, gemm, head, some_blocks, block);
            softmax(
                isa,
                f32_rows_mut(&mut self.scores[..keys.len() * 2]),
                scale,
                &mut factors,
            );
            let mut tile = [[0; NR]; MR];
            return self.mix(isa, gemm, head, rows, keys, |gemm, operands, range, first, columns| {
                let epilogue = Epilogue::RowFactors(&factors[range.clone()]);
                gemm.store(
                    operands,
                    &epilogue,
                    None,
                    output(range.start, first, columns),
                    &mut tile,
                );
            });
        }
        let mut online = Online {
            max: [f32::NEG_INFINITY; NR],
            sums: [0.0; NR],
        };
        let mut mixed = std::mem::take(&mut self.mixed);
        let sums = grow_to(&mut mixed, size.div_ceil(NR) * NR * 2, ZERO_LINE);
        // Not left to the first correction, which is zero: zero times NaN is NaN.
        sums.fill(ZERO_LINE);
        let parts = some_blocks.len().div_ceil(blocks_at_once);
        let part_blocks = some_blocks.len().div_ceil(parts);
        for first in some_blocks.clone().step_by(part_blocks) {
            let part = first..some_blocks.end.min(first + part_blocks);
            let keys = self.score(isa, gemm, head, part, block);
            let scores = f32_rows_mut(&mut self.scores[..keys.len() * 2]);
            softmax_online(isa, scores, scale, &mut online, &mut factors);
            let mut tile = [[0; NR]; MR];
            self.mix(isa, gemm, head, rows, keys, |gemm, operands, range, first, _| {
                gemm.values(operands, &Epilogue::RowFactors(&[1.0; NR]), None, &mut tile);
                let sums = &mut rows_mut(sums)[first + range.start..first + range.end];
                accumulate(isa, sums, &tile[..range.len()], &factors[range]);
            });
        }
        let factors = online.sums.map(|sum| 1.0 / sum);
        for first in (0..size).step_by(NR) {
            let sums = &mut rows_mut(sums)[first..first + rows];
            accumulate(isa, sums, &[], &factors);
            store(isa, &mut output(0, first, (size - first).min(NR)), sums);
        }
        self.mixed = mixed;
    }

    /// Writes the scores of up to 32 packed queries with the keys of some blocks, a row for each key, and returns these
    /// keys; a first key that is in no block completes a K-step, and its scores are −∞.
    fn score(
        &mut self,
        isa: Isa,
        gemm: Gemm,
        head: Head<'_>,
        some_blocks: Range<usize>,
        block: Option<&QueryBlock<'_>>,
    ) -> Range<usize> {
        let Head { size, tokens, .. } = head;
        let row_elements = row_elements(gemm.layout(size));
        let per_element = gemm.precision().values_per_element();
        let blocks = RowBlocks::even(tokens, MR);
        let begin = blocks.start(some_blocks.start);
        let keys = begin - begin % per_element..blocks.start(some_blocks.end);
        let queries = &self.queries[..size.div_ceil(per_element) * 2];
        let scores = grow_to(&mut self.scores, keys.len() * 2, ZERO_LINE);
        f32_rows_mut(scores)[..begin - keys.start].fill([f32::NEG_INFINITY; NR]);
        for index in some_blocks {
            let range = blocks.range(index);
            let operands = Operands {
                block: Block::Rows {
                    elements: &self.keys[range.start * row_elements..range.end * row_elements],
                    rows: range.len(),
                },
                panel: queries,
                prefetch: &[],
                accumulate: false,
            };
            gemm.sums(
                &operands,
                &mut rows_mut(scores)[range.start - keys.start..range.end - keys.start],
            );
        }
        if let Some(QueryBlock {
            tokens,
            are_adjacent,
            bounds,
            bias,
        }) = block
        {
            let (rows, first) = (f32_rows_mut(scores), keys.start as i32);
            if let Some(bias) = bias {
                add_bias(isa, rows, first, (tokens, *are_adjacent), bias, (size as f32).sqrt());
            }
            if let Some(bounds) = bounds {
                exclude(isa, rows, first, bounds);
            }
        }
        keys
    }

    /// Multiplies the probabilities of the keys `keys`, the rows of the scores, with their values:
    /// `compute(gemm, operands, rows, first dimension, columns)` for each tile.
    fn mix(
        &mut self,
        isa: Isa,
        gemm: Gemm,
        head: Head<'_>,
        rows: usize,
        keys: Range<usize>,
        mut compute: impl FnMut(Gemm, &Operands<'_>, Range<usize>, usize, usize),
    ) {
        let Head { size, tokens, .. } = head;
        let per_element = gemm.precision().values_per_element();
        let scores = &mut self.scores[..keys.len() * 2];
        let probabilities: &[Line] = match gemm.precision() {
            Precision::Bf16 => {
                let pairs = grow_to(&mut self.bf16_scores, keys.len().div_ceil(2) * 2, ZERO_LINE);
                pack_scores_bf16(isa, f32_rows_mut(scores), pairs);
                pairs
            }
            _ => scores,
        };
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
                    accumulate: false,
                };
                compute(gemm, &operands, range, first, (size - first).min(NR));
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

/// [`softmax`] of some keys after others: `corrections` receives the factors of the sums so far.
#[inline(always)]
fn softmax_online_body<const FMA: bool>(
    scores: &mut [[f32; NR]],
    scale: f32,
    online: &mut Online,
    corrections: &mut [f32; NR],
) {
    let mut max = online.max;
    for row in scores.iter() {
        for n in 0..NR {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    // Where every key so far is out of the window, any maximum gives zeros.
    let from = max.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
    for n in 0..NR {
        corrections[n] = exp::<FMA>((online.max[n] - from[n]) * scale);
    }
    let mut sums = [0.0; NR];
    for row in scores {
        for n in 0..NR {
            row[n] = exp::<FMA>((row[n] - from[n]) * scale);
            sums[n] += row[n];
        }
    }
    for n in 0..NR {
        online.sums[n] = online.sums[n] * corrections[n] + sums[n];
    }
    online.max = max;
}

/// Multiplies rows by their factors, then adds those of a tile that is there; all are bits of f32.
#[inline(always)]
fn accumulate_body(sums: &mut [[u32; NR]], tile: &[[u32; NR]], factors: &[f32]) {
    for (index, (row, factor)) in sums.iter_mut().zip(factors).enumerate() {
        let added = tile.get(index).unwrap_or(&[0; NR]);
        for n in 0..NR {
            row[n] = (f32::from_bits(row[n]) * factor + f32::from_bits(added[n])).to_bits();
        }
    }
}

for_each_isa! {
    fn softmax_online(scores: &mut [[f32; NR]], scale: f32, online: &mut Online, corrections: &mut [f32; NR]) = fused softmax_online_body
}
for_each_isa! {
    fn accumulate(sums: &mut [[u32; NR]], tile: &[[u32; NR]], factors: &[f32]) = accumulate_body
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

    /// Values in -1..1 (xorshift).
    fn random(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// One head over one sequence.
    struct Case {
        size: usize,
        query_tokens: Vec<u32>,
        tokens: usize,
        window: Option<usize>,
    }

    impl Case {
        /// The result, and the lines of the scores' buffer.
        fn attend(&self, isa: Isa, precision: Precision, query: &[f32], key_value: &[f32]) -> (Vec<f32>, usize) {
            let distance = ByDistance {
                query_tokens: &self.query_tokens,
                window: self.window,
                bias: None,
            };
            let sequence = Sequence {
                queries: 0..self.query_tokens.len(),
                tokens: 0..self.tokens,
            };
            let head = Head {
                hidden: self.size,
                start: 0,
                size: self.size,
                tokens: self.tokens,
                distance: Some(distance.of(0, &sequence)),
            };
            let mut output = vec![0.0; query.len()];
            let shared = Disjoint::new(&mut output);
            let mut scratch = Scratch::default();
            let gemm = attention_gemm(isa, precision);
            scratch.attend(isa, gemm, head, query, key_value, |row, dimension, columns| {
                // SAFETY: one thread, and one tile at a time.
                unsafe { OutputTile::shared(&shared, row * self.size + dimension, self.size, columns) }
            });
            (output, scratch.scores.len())
        }

        fn expected(&self, query: &[f32], key_value: &[f32]) -> Vec<f64> {
            let size = self.size;
            let mut all = Vec::new();
            for (query, &token) in query.chunks_exact(size).zip(&self.query_tokens) {
                let is_near = |key: usize| self.window.is_none_or(|window| key.abs_diff(token as usize) <= window);
                let (mut sum, mut mixed) = (0.0, vec![0.0; size]);
                for (_, row) in key_value
                    .chunks_exact(2 * size)
                    .enumerate()
                    .filter(|(key, _)| is_near(*key))
                {
                    let score: f64 = query.iter().zip(row).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let weight = (score / (size as f64).sqrt()).exp();
                    sum += weight;
                    mixed
                        .iter_mut()
                        .zip(&row[size..])
                        .for_each(|(m, &v)| *m += weight * f64::from(v));
                }
                all.extend(mixed.iter().map(|m| m / sum));
            }
            all
        }
    }

    #[test]
    fn more_keys_than_scores_at_once() {
        for (tokens, window) in [
            (2 * KEYS_AT_ONCE + 77, None),
            (3 * KEYS_AT_ONCE + 1, Some(KEYS_AT_ONCE + 500)),
        ] {
            let size = 40;
            // Of the ends and the middle, so that parts of the keys are out of the window of some.
            let query_tokens: Vec<u32> = (0..tokens as u32).step_by(tokens / 70).collect();
            let (query, key_value) = (random(query_tokens.len() * size, 1), random(tokens * 2 * size, 2));
            // Large scores, of which the largest come last.
            let query: Vec<f32> = query.iter().map(|x| x * 8.0).collect();
            let case = Case {
                size,
                query_tokens,
                tokens,
                window,
            };
            let expected = case.expected(&query, &key_value);
            for isa in Isa::available() {
                for (precision, error_max) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.02)] {
                    let (ours, lines) = case.attend(isa, precision, &query, &key_value);
                    for (ours, expected) in ours.iter().zip(&expected) {
                        let error = (f64::from(*ours) - expected).abs();
                        assert!(
                            error < error_max,
                            "{isa} {precision:?} {window:?}: {ours}, not {expected}"
                        );
                    }
                    assert!(lines <= (KEYS_AT_ONCE + MR + 1) * 2);
                }
            }
        }
    }

    #[test]
    fn scores_beyond_the_window_do_not_exist() {
        let case = Case {
            size: NR,
            query_tokens: (0..1500).collect(),
            tokens: 1500,
            window: Some(64),
        };
        let (query, key_value) = (random(1500 * NR, 1), random(1500 * 2 * NR, 2));
        let (_, lines) = case.attend(Isa::detected(), Precision::F32, &query, &key_value);
        // The window of the first and of the last query of a block, and whole blocks of keys.
        assert!(lines <= (2 * 64 + NR + 2 * MR) * 2);
    }
}
