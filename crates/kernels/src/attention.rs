//! Softmax attention within each segment, a task for each segment and head, with the dense layers' tiles.
//!
//! Scores are computed with the queries as columns: a tile gives those of some keys for 32 queries, so the softmax runs
//! over whole registers. The second product takes the same columns as its rows, and the values as its columns, as both
//! lie.

use std::cell::RefCell;
use std::ops::Range;

use crate::finish::{Finish, Place};
use crate::level::for_each_level;
use crate::math::exp;
use crate::pack::{self, Blocks, COLUMNS, GROUP, Line, ROWS_MAX, Rows, bf16_bits, rounded_bf16};
use crate::rows::Disjoint;
use crate::tile::{Block, Product, Words, ZERO_SUMS};
use crate::{Context, Level, Precision, at_least};

/// A sequence's rows among those of a packed batch.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its rows among the queries.
    pub queries: Range<usize>,
    /// Its rows among the keys and values.
    pub tokens: Range<usize>,
}

/// The heads of an attention, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// How many.
    pub count: usize,
    /// Columns of all together.
    pub hidden: usize,
    /// Below f32, the products are of bf16 where the CPU has them.
    pub precision: Precision,
}

/// What a thread needs for a head, kept so that no task allocates.
#[derive(Default)]
pub struct Scratch {
    /// Blocks of keys, by row.
    keys: Vec<u32>,
    /// Panels of the values, a step for each word of tokens.
    values: Vec<Line>,
    /// Up to 32 queries, by row.
    query_lines: Vec<u32>,
    /// The same as a panel, a step for each word of dimensions.
    queries: Vec<Line>,
    /// Of all keys, a row of 32 queries each.
    scores: Vec<Line>,
    /// The same as a panel of bf16, two keys a step.
    pairs: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where a head's numbers are in rows of `hidden` or `2 * hidden`, and what they are computed with.
#[derive(Clone, Copy)]
pub struct Head {
    pub hidden: usize,
    /// Its first column.
    pub start: usize,
    /// Its columns.
    pub size: usize,
    /// Tokens of the segment.
    pub tokens: usize,
    pub words: Words,
}

/// `softmax(query · keyᵀ / √size) · value` for each head: `query` is `[query rows, hidden]`, `key_value`
/// `[token rows, 2 * hidden]` with the keys first. Writes `[query rows, hidden]` to `output`.
///
/// # Panics
/// When the sizes do not fit together, or the segments' queries are not all rows, one after the other.
pub fn attention(
    context: Context<'_>,
    heads: Heads,
    query: &[f32],
    key_value: &[f32],
    segments: &[Segment],
    output: &mut [f32],
) {
    let Heads {
        count,
        hidden,
        precision,
    } = heads;
    assert!(hidden.is_multiple_of(count) && query.len().is_multiple_of(hidden) && output.len() == query.len());
    // Each row is written, by one segment.
    let mut written = 0;
    for Segment { queries, .. } in segments {
        assert!(written == queries.start && queries.start <= queries.end);
        written = queries.end;
    }
    assert!(written == query.len() / hidden);
    let size = hidden / count;
    let words = product_words(context.level, precision);
    let is_asked = |segment: &&Segment| !segment.queries.is_empty();
    let segments: Vec<&Segment> = segments.iter().filter(is_asked).collect();
    let shared = Disjoint::new(output);
    context.pool.run(segments.len() * count, |task| {
        let segment = segments[task / count];
        let head = Head {
            hidden,
            start: task % count * size,
            size,
            tokens: segment.tokens.len(),
            words,
        };
        let key_value = &key_value[segment.tokens.start * 2 * hidden..segment.tokens.end * 2 * hidden];
        let query = &query[segment.queries.start * hidden..segment.queries.end * hidden];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.attend_all(context.level, head, query, key_value, |row, dimension, count| {
                let start = (segment.queries.start + row) * hidden + head.start + dimension;
                // SAFETY: a task has its own columns of its segment's rows, which no other segment has.
                unsafe { Place::new(&shared, start, hidden, count) }
            });
        });
    });
}

/// What products are computed with at most in this precision.
pub fn product_words(level: Level, precision: Precision) -> Words {
    match precision {
        Precision::Bf16 | Precision::Int8 if level >= Level::Avx512Bf16 => Words::Bf16,
        _ => Words::F32,
    }
}

impl Scratch {
    /// Computes a head of a segment, whose rows `query` and `key_value` are, and writes parts of some rows to
    /// `place(first row, first dimension, how many)`.
    pub fn attend_all<'a>(
        &mut self,
        level: Level,
        head: Head,
        query: &[f32],
        key_value: &[f32],
        place: impl Fn(usize, usize, usize) -> Place<'a>,
    ) {
        self.pack(level, head, key_value);
        for (index, query) in query.chunks(COLUMNS * head.hidden).enumerate() {
            self.attend(level, head, query, |row, dimension, count| {
                place(index * COLUMNS + row, dimension, count)
            });
        }
    }

    /// Packs a head's keys and values.
    fn pack(&mut self, level: Level, head: Head, key_value: &[f32]) {
        let Head {
            hidden,
            start,
            size,
            tokens,
            words,
        } = head;
        let stride = 2 * hidden;
        let row_words = size.div_ceil(GROUP * words.values()) * GROUP;
        let keys = at_least(&mut self.keys, tokens * row_words, 0);
        let blocks = Blocks::even(tokens, ROWS_MAX);
        for index in 0..blocks.count() {
            let range = blocks.range(index);
            let packed = &mut keys[range.start * row_words..range.end * row_words];
            let rows = &key_value[range.start * stride + start..];
            let count = range.len();
            let rows = Rows {
                x: rows,
                stride,
                inputs: size,
                count,
                stored: count,
            };
            pack::pack_rows(level, words, rows, packed, &mut []);
        }
        let steps = tokens.div_ceil(words.values());
        let panels = size.div_ceil(COLUMNS);
        let values = at_least(&mut self.values, panels * steps * 2, Line([0; 16]));
        for (panel, lines) in values.chunks_exact_mut(steps * 2).enumerate() {
            let first = panel * COLUMNS;
            let columns = (size - first).min(COLUMNS);
            let from = hidden + start + first;
            match words {
                Words::Bf16 => value_pairs(level, key_value, stride, from, columns, lines),
                _ => value_rows(level, key_value, stride, from, columns, lines),
            }
        }
    }

    /// The same of up to 32 query rows, the keys and values being packed.
    fn attend<'a>(
        &mut self,
        level: Level,
        head: Head,
        query: &[f32],
        place: impl Fn(usize, usize, usize) -> Place<'a>,
    ) {
        let Head {
            hidden,
            start,
            size,
            tokens,
            words,
        } = head;
        let rows = query.len() / hidden;
        let row_words = size.div_ceil(GROUP * words.values()) * GROUP;
        let group_words = COLUMNS * GROUP;
        let lines = at_least(&mut self.query_lines, row_words / GROUP * group_words, 0);
        let asked = Rows {
            x: &query[start..],
            stride: hidden,
            inputs: size,
            count: rows,
            stored: COLUMNS,
        };
        pack::pack_rows(level, words, asked, lines, &mut []);
        let steps = row_words * 2;
        let queries = at_least(&mut self.queries, steps, Line([0; 16]));
        for (rows, columns) in lines.chunks_exact(group_words).zip(queries.chunks_exact_mut(2 * GROUP)) {
            transpose(level, rows, pack::as_rows(columns));
        }
        let queries = &queries[..size.div_ceil(words.values()) * 2];
        // A tile writes no more rows than it has, but is given room for the most.
        let scores = at_least(&mut self.scores, (tokens + ROWS_MAX) * 2, Line([0; 16]));
        let blocks = Blocks::even(tokens, ROWS_MAX);
        for index in 0..blocks.count() {
            let keys = blocks.range(index);
            let block = &self.keys[keys.start * row_words..keys.end * row_words];
            let product = Product {
                level,
                words,
                block: Block::ByRow(block, keys.len()),
                panel: queries,
                ahead: &[],
            };
            product.sums(&mut pack::as_rows(scores)[keys.start..]);
        }
        let scores = &mut scores[..tokens * 2];
        let scale = 1.0 / (size as f32).sqrt();
        let mut factors = [0.0; COLUMNS];
        softmax(level, pack::as_f32_rows(scores), scale, &mut factors);
        let probabilities: &[Line] = match words {
            Words::Bf16 => {
                let pairs = at_least(&mut self.pairs, tokens.div_ceil(2) * 2, Line([0; 16]));
                pair_rows(level, pack::as_f32_rows(scores), pairs);
                pairs
            }
            _ => scores,
        };
        let mut room = ZERO_SUMS;
        let blocks = Blocks::even(rows, ROWS_MAX);
        let panels = self.values.chunks_exact(probabilities.len());
        for (panel, first) in panels.zip((0..size).step_by(COLUMNS)) {
            for index in 0..blocks.count() {
                let range = blocks.range(index);
                let product = Product {
                    level,
                    words,
                    block: Block::Columns(probabilities, range.start, range.len()),
                    panel,
                    ahead: &[],
                };
                let place = place(range.start, first, (size - first).min(COLUMNS));
                product.finish(&Finish::Factors(&factors[range]), None, place, &mut room);
            }
        }
    }
}

/// The words of a group, `[32][16]`, by columns: `[16][32]`.
#[inline(always)]
fn transpose_body(rows: &[u32], columns: &mut [[u32; COLUMNS]]) {
    for (lane, row) in rows.chunks_exact(GROUP).enumerate() {
        for (column, word) in columns.iter_mut().zip(row) {
            column[lane] = *word;
        }
    }
}

/// Values as a panel of f32: `columns` of each row of `x`, from `start` on.
#[inline(always)]
fn value_rows_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    for (row, lines) in x.chunks_exact(stride).zip(pack::as_f32_rows(lines)) {
        let row = &row[start..start + columns];
        match <&[f32; COLUMNS]>::try_from(row) {
            Ok(whole) => *lines = *whole,
            Err(_) => lines[..columns].copy_from_slice(row),
        }
    }
}

/// Values as a panel of bf16, two rows a step; a last one without a second has zeros instead.
#[inline(always)]
fn value_pairs_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    let mut steps = pack::as_rows(lines).iter_mut();
    for rows in x.chunks(2 * stride) {
        let step = steps.next().expect("a step for two rows");
        let mut pair = [[0.0; COLUMNS]; 2];
        for (values, row) in pair.iter_mut().zip(rows.chunks_exact(stride)) {
            let row = &row[start..start + columns];
            match <&[f32; COLUMNS]>::try_from(row) {
                Ok(whole) => *values = *whole,
                Err(_) => values[..columns].copy_from_slice(row),
            }
        }
        for n in 0..COLUMNS {
            step[n] = bf16_bits(pair[0][n]) | bf16_bits(pair[1][n]) << 16;
        }
    }
}

/// Rows of f32 that are no less than zero as a panel of bf16, two rows a step.
#[inline(always)]
fn pair_rows_body(rows: &[[f32; COLUMNS]], lines: &mut [Line]) {
    for (rows, step) in rows.chunks(2).zip(pack::as_rows(lines)) {
        let second = rows.get(1).unwrap_or(&[0.0; COLUMNS]);
        for n in 0..COLUMNS {
            step[n] = rounded_bf16(rows[0][n]) | rounded_bf16(second[n]) << 16;
        }
    }
}

/// Turns scores into `e^(scale · (score - max))` in place, column by column; `factors` receives what the columns
/// must be multiplied with to add up to one.
#[inline(always)]
fn softmax_body<const FMA: bool>(scores: &mut [[f32; COLUMNS]], scale: f32, factors: &mut [f32; COLUMNS]) {
    let mut max = [f32::NEG_INFINITY; COLUMNS];
    for row in scores.iter() {
        for n in 0..COLUMNS {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    let mut sums = [0.0; COLUMNS];
    for row in scores {
        for n in 0..COLUMNS {
            row[n] = exp::<FMA>((row[n] - max[n]) * scale);
            sums[n] += row[n];
        }
    }
    *factors = sums.map(|sum| 1.0 / sum);
}

for_each_level! {
    fn transpose(rows: &[u32], columns: &mut [[u32; COLUMNS]]) = transpose_body
}
for_each_level! {
    fn value_rows(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = value_rows_body
}
for_each_level! {
    fn value_pairs(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = value_pairs_body
}
for_each_level! {
    fn pair_rows(rows: &[[f32; COLUMNS]], lines: &mut [Line]) = pair_rows_body
}
for_each_level! {
    fn softmax(scores: &mut [[f32; COLUMNS]], scale: f32, factors: &mut [f32; COLUMNS]) = fused softmax_body
}
