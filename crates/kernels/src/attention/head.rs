//! One head of one sequence.

use std::ops::Range;

use super::distance::{InSequence, QueryBlock, add_bias, exclude};
use super::pack::{pack_scores_bf16, pack_values_bf16, pack_values_f32, transpose};
use super::softmax::{Online, accumulate, softmax, softmax_online};
use crate::arch;
use crate::disjoint::OutputTile;
use crate::epilogue::{Epilogue, store};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands, Rows};
use crate::layout::{
    K_BLOCK, KLayout, Line, MR, NR, Precision, RowBlocks, ZERO_LINE, elements, f32_rows_mut, rows_mut,
};
use crate::scratch::{grow_elements, grow_to};

/// Keys whose scores for a block of queries exist at once. The scores of more would leave the second-level cache;
/// further keys are added with the online softmax: <https://arxiv.org/abs/1805.02867>.
const KEYS_AT_ONCE: usize = 2048;

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    /// Keys, packed as blocks of rows.
    keys: Vec<Line>,
    /// Values, packed as panels along the tokens.
    values: Vec<Line>,
    /// Up to 32 queries, packed as a block.
    query_rows: Vec<Line>,
    /// The same as a panel.
    queries: Vec<Line>,
    /// By key, a row for 32 queries.
    scores: Vec<Line>,
    /// The same as a panel of bf16, two keys a K-step.
    bf16_scores: Vec<Line>,
    /// The same as a block, for tiles.
    bf16_rows: Vec<Line>,
    /// Sums of weighted values over the keys so far, for 32 queries of each value panel.
    mixed: Vec<Line>,
    /// A result for 32 queries.
    tile: [[u32; NR]; NR],
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

impl Head<'_> {
    /// Most keys of a block. Short blocks hold fewer keys out of a window; long blocks need fewer calls.
    fn key_block_rows(self, gemm: Gemm) -> usize {
        let layout = gemm.layout(1);
        match self.distance.is_some_and(InSequence::has_window) {
            true if layout.is_amx() => K_BLOCK,
            true => MR,
            false => layout.block_rows,
        }
    }

    /// The blocks of the packed keys.
    fn key_blocks(self, gemm: Gemm) -> RowBlocks {
        let rows = self.key_block_rows(gemm);
        match gemm.layout(1).is_amx() {
            true => RowBlocks::full(self.tokens, rows),
            false => RowBlocks::even(self.tokens, rows),
        }
    }
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
        let layout = gemm.layout(size);
        let row_elements = row_elements(layout);
        let keys = grow_elements(&mut self.keys, layout.stored_rows(tokens) * row_elements);
        let blocks = head.key_blocks(gemm);
        for index in 0..blocks.count() {
            let range = blocks.range(index);
            let stored = layout.stored_rows(range.len());
            let packed = &mut keys[range.start * row_elements..][..stored * row_elements];
            let rows = Rows {
                x: &key_value[range.start * stride + start..],
                stride,
                inputs: size,
                count: range.len(),
                stored,
            };
            gemm.pack_rows(rows, packed, &mut []);
        }
        let steps = tokens.div_ceil(gemm.precision().values_per_element());
        let panels = size.div_ceil(NR);
        let lines = value_panel_lines(gemm, tokens);
        let values = grow_to(&mut self.values, panels * lines, ZERO_LINE);
        for (panel, lines) in values.chunks_exact_mut(lines).enumerate() {
            let first = panel * NR;
            let (lines, padding) = lines.split_at_mut(steps * 2);
            padding.fill(ZERO_LINE);
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
        let packed = grow_elements(&mut self.query_rows, NR * row_elements);
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
        let blocks = head.key_blocks(gemm);
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
        let blocks_at_once = KEYS_AT_ONCE.div_ceil(head.key_block_rows(gemm));
        if some_blocks.len() <= blocks_at_once {
            let keys = self.score(isa, gemm, head, some_blocks, block);
            softmax(
                isa,
                f32_rows_mut(&mut self.scores[..keys.len() * 2]),
                scale,
                &mut factors,
            );
            return self.mix(
                isa,
                gemm,
                head,
                rows,
                keys,
                |gemm, operands, range, first, columns, tile| {
                    let epilogue = Epilogue::RowFactors(&factors[range.clone()]);
                    gemm.store(operands, &epilogue, None, output(range.start, first, columns), tile);
                },
            );
        }
        let mut online = Online::START;
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
            self.mix(isa, gemm, head, rows, keys, |gemm, operands, range, first, _, tile| {
                gemm.values(operands, &Epilogue::RowFactors(&[1.0; NR]), None, tile);
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
        let size = head.size;
        let layout = gemm.layout(size);
        let row_elements = row_elements(layout);
        let per_element = gemm.precision().values_per_element();
        let blocks = head.key_blocks(gemm);
        let begin = blocks.start(some_blocks.start);
        let keys = begin - begin % per_element..blocks.start(some_blocks.end);
        let queries = match layout.is_amx() {
            true => &self.queries[..layout.panel_lines()],
            false => &self.queries[..size.div_ceil(per_element) * 2],
        };
        let packed_keys = elements(&self.keys);
        let scores = grow_to(&mut self.scores, keys.len() * 2, ZERO_LINE);
        f32_rows_mut(scores)[..begin - keys.start].fill([f32::NEG_INFINITY; NR]);
        for index in some_blocks {
            let range = blocks.range(index);
            let operands = Operands {
                block: Block::Rows {
                    elements: &packed_keys[range.start * row_elements..]
                        [..layout.stored_rows(range.len()) * row_elements],
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
    /// `compute(gemm, operands, rows, first dimension, columns, scratch)` for each tile.
    fn mix(
        &mut self,
        isa: Isa,
        gemm: Gemm,
        head: Head<'_>,
        rows: usize,
        keys: Range<usize>,
        mut compute: impl FnMut(Gemm, &Operands<'_>, Range<usize>, usize, usize, &mut [[u32; NR]]),
    ) {
        let Head { size, tokens, .. } = head;
        let per_element = gemm.precision().values_per_element();
        let layout = gemm.layout(keys.len());
        let scores = &mut self.scores[..keys.len() * 2];
        let probabilities: &[Line] = match gemm.precision() {
            Precision::Bf16 => {
                let lines = match layout.is_amx() {
                    true => layout.panel_lines(),
                    false => keys.len().div_ceil(2) * 2,
                };
                let pairs = grow_to(&mut self.bf16_scores, lines, ZERO_LINE);
                let (some, padding) = pairs.split_at_mut(keys.len().div_ceil(2) * 2);
                pack_scores_bf16(isa, f32_rows_mut(scores), some);
                padding.fill(ZERO_LINE);
                pairs
            }
            _ => scores,
        };
        // Tiles have the queries as rows.
        let by_query = layout.is_amx().then(|| {
            let stored = layout.stored_rows(rows);
            let lines = grow_to(&mut self.bf16_rows, layout.k_blocks * stored, ZERO_LINE);
            for (columns, rows) in probabilities
                .chunks_exact(layout.block_lines)
                .zip(lines.chunks_exact_mut(stored))
            {
                arch::transpose_k_block(isa, columns, rows);
            }
            elements(lines)
        });
        let blocks = RowBlocks::even(rows, layout.block_rows);
        let panels = self.values.chunks_exact(value_panel_lines(gemm, tokens));
        let first_line = keys.start / per_element * 2;
        for (panel, first) in panels.zip((0..size).step_by(NR)) {
            let panel = &panel[first_line..first_line + probabilities.len()];
            for index in 0..blocks.count() {
                let range = blocks.range(index);
                let operands = Operands {
                    block: match by_query {
                        Some(elements) => Block::Rows {
                            elements,
                            rows: range.len(),
                        },
                        None => Block::Columns {
                            panel: probabilities,
                            first: range.start,
                            rows: range.len(),
                        },
                    },
                    panel,
                    prefetch: &[],
                    accumulate: false,
                };
                compute(gemm, &operands, range, first, (size - first).min(NR), &mut self.tile);
            }
        }
    }
}

/// Lines of a panel of values. Tiles take whole K-blocks from any K-step on, so more lines of zeros follow the values.
fn value_panel_lines(gemm: Gemm, tokens: usize) -> usize {
    let steps = tokens.div_ceil(gemm.precision().values_per_element());
    let padding = if gemm.layout(1).is_amx() { K_BLOCK } else { 0 };
    (steps + padding) * 2
}

/// Elements of a packed row.
fn row_elements(layout: KLayout) -> usize {
    layout.k_blocks * layout.row_elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{ByDistance, Sequence, attention_gemm};
    use crate::disjoint::Disjoint;
    use crate::layout::BLOCK_ROWS_MAX;
    use cloze_test_values::random;

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
                    assert!(lines <= (KEYS_AT_ONCE + BLOCK_ROWS_MAX + 1) * 2);
                }
            }
        }
    }

    /// Values that a block with more keys has left in the buffers have no effect.
    #[test]
    fn a_block_with_few_keys_after_one_with_many() {
        let (size, tokens) = (NR, 300);
        // The whole sequence, then 48 keys at its begin, which are no whole K-blocks.
        let case = Case {
            size,
            query_tokens: (0..NR as u32).map(|i| 9 * i).chain(0..16).collect(),
            tokens,
            window: Some(20),
        };
        let query = random(case.query_tokens.len() * size, 3);
        let key_value = random(tokens * 2 * size, 4);
        let expected = case.expected(&query, &key_value);
        for isa in Isa::available() {
            for (precision, error_max) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.02)] {
                let (ours, _) = case.attend(isa, precision, &query, &key_value);
                for (ours, expected) in ours.iter().zip(&expected) {
                    let error = (f64::from(*ours) - expected).abs();
                    assert!(error < error_max, "{isa} {precision:?}: {ours}, not {expected}");
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
