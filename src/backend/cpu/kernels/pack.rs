//! Weights and activations in the order that a tile reads them.
//!
//! A tile walks along the inner dimension in *steps*. In a step, each of 32 columns has 32 bits of weights and each
//! row 32 bits of activations: one f32, two bf16, or four 8-bit integers. So all precisions share one layout:
//!
//! - weights: panels of 32 columns, each `[steps][32]` words, two cache lines a step; columns and steps beyond the
//!   end are zero;
//! - activations: blocks of up to [`ROWS_MAX`] rows, each `[steps][rows]` words.
//!
//! Both are read from front to back, which is what the hardware fetches ahead of time, whatever the strides of the
//! matrices were.

use crate::level::for_each_level;

/// Columns of a panel.
pub const COLUMNS: usize = 32;
/// Rows of a block at most: 12 rows of two 16-value registers fill 24 of AVX-512's 32, and leave room for operands.
pub const ROWS_MAX: usize = 12;
/// Added to 8-bit activations, since the instruction wants them unsigned.
pub const ZERO_POINT: i32 = 128;
/// Adding it, which is 1.5 · 2^23, leaves the rounded integer in the low bits, without a branch or a call, so that the
/// compiler makes vector code of it.
const ROUND: f32 = 12_582_912.0;
/// The greatest 8-bit weight or activation.
pub const INT8_MAX: f32 = 127.0;

/// Half a step of a panel, as one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

/// The steps of a panel as rows of f32.
pub fn as_f32_rows(lines: &mut [Line]) -> &mut [[f32; COLUMNS]] {
    let steps = lines.len() / 2;
    // SAFETY: two lines are 32 words without anything between them, every word is a valid f32, and a line is aligned
    // to more than an f32; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), steps) }
}

/// Words of a step in a panel's column, f32 as they are.
fn f32_word(values: &[f32]) -> u32 {
    values[0].to_bits()
}

/// Rounds to the nearest bf16, ties to even.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u32 {
    const NAN: u32 = 0x7fc0;
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { NAN } else { rounded }
}

#[inline(always)]
fn bf16_word(values: &[f32]) -> u32 {
    let second = values.get(1).map_or(0, |&value| bf16_bits(value));
    bf16_bits(values[0]) | second << 16
}

/// The panels of a weight `[outputs, inputs]`, of `steps` steps at least as many as the inputs need; `word` makes one of
/// `values_per_step` adjacent values of a row.
fn panels(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
    steps: usize,
    values_per_step: usize,
    word: impl Fn(usize, &[f32]) -> u32,
) -> Vec<Line> {
    let mut lines = vec![Line([0; 16]); outputs.div_ceil(COLUMNS) * steps * 2];
    for (panel, lines) in lines.chunks_exact_mut(steps * 2).enumerate() {
        let first = panel * COLUMNS;
        for column in first..outputs.min(first + COLUMNS) {
            let row = &weight[column * inputs..][..inputs];
            let lane = column - first;
            for (step, values) in row.chunks(values_per_step).enumerate() {
                lines[step * 2 + lane / 16].0[lane % 16] = word(column, values);
            }
        }
    }
    lines
}

/// f32 panels: a step is one value.
pub fn panels_f32(weight: &[f32], outputs: usize, inputs: usize) -> Vec<Line> {
    panels(weight, outputs, inputs, inputs, 1, |_, values| f32_word(values))
}

/// bf16 panels: a step is two values, the first in the low half.
pub fn panels_bf16(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> Vec<Line> {
    panels(weight, outputs, inputs, steps, 2, |_, values| bf16_word(values))
}

/// 8-bit panels, a step is four values, the first in the lowest byte; and for each column the scale that turns its
/// integers back into values.
pub fn panels_int8(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> (Vec<Line>, Vec<f32>) {
    let scales: Vec<f32> = weight.chunks_exact(inputs).map(scale_of).collect();
    let lines = panels(weight, outputs, inputs, steps, 4, |column, values| {
        // Rounds as `block_int8` does: the function of that name is a call where SSE4.1 is not certain.
        let quantized = |value: f32| (value / scales[column] + ROUND).to_bits() & 0xff;
        let bytes = values.iter().enumerate();
        bytes.fold(0, |word, (i, &value)| word | quantized(value) << (8 * i))
    });
    (lines, scales)
}

/// What one unit of an 8-bit integer stands for when the largest value becomes 127. Not a number when a value is
/// not, so that whatever is computed with it shows.
#[inline(always)]
fn scale_of(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let mut not_numbers = [0.0f32; 16];
    for chunk in values.chunks(16) {
        for n in 0..chunk.len() {
            lanes[n] = lanes[n].max(chunk[n].abs());
            not_numbers[n] += chunk[n] * 0.0;
        }
    }
    let largest = lanes.into_iter().fold(0.0, f32::max) + not_numbers.into_iter().sum::<f32>();
    // A row of zeros has any scale.
    if largest == 0.0 { 1.0 } else { largest / INT8_MAX }
}

/// The word at `column` of a panel's `step`.
#[inline(always)]
pub fn word_of(panel: &[Line], step: usize, column: usize) -> u32 {
    panel[step * 2 + column / 16].0[column % 16]
}

/// How rows are cut into blocks: as few as possible, and either as even as possible, or full but for the last.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    rows: usize,
    count: usize,
    /// Rows of a full block, where they are not even.
    full: Option<usize>,
}

impl Blocks {
    /// Blocks of up to `max` rows.
    pub fn even(rows: usize, max: usize) -> Self {
        Self {
            rows,
            count: rows.div_ceil(max),
            full: None,
        }
    }

    /// Blocks of `size` rows, and what is left.
    pub fn full(rows: usize, size: usize) -> Self {
        Self {
            rows,
            count: rows.div_ceil(size),
            full: Some(size),
        }
    }

    pub fn count(self) -> usize {
        self.count
    }

    /// The first row of block `index`; that of `count` is the number of rows.
    pub fn start(self, index: usize) -> usize {
        if let Some(size) = self.full {
            return self.rows.min(index * size);
        }
        let (small, larger) = (self.rows / self.count, self.rows % self.count);
        index * small + index.min(larger)
    }

    pub fn range(self, index: usize) -> std::ops::Range<usize> {
        self.start(index)..self.start(index + 1)
    }
}

/// Packs a block of rows of `x`, `[rows, inputs]` with `stride` values between rows, into `[steps][rows]` words.
#[inline(always)]
fn block_f32(x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32]) {
    for row in 0..rows {
        let values = &x[row * stride..][..inputs];
        for (step, value) in values.iter().enumerate() {
            packed[step * rows + row] = value.to_bits();
        }
    }
}

#[inline(always)]
fn block_bf16(x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32]) {
    for row in 0..rows {
        let values = &x[row * stride..][..inputs];
        for (step, pair) in values.chunks(2).enumerate() {
            packed[step * rows + row] = bf16_word(pair);
        }
    }
}

/// As the others; `scales` receives what one unit of each row stands for. Values beyond the end are the zero point.
#[inline(always)]
fn block_int8(x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32], scales: &mut [f32]) {
    for row in 0..rows {
        let values = &x[row * stride..][..inputs];
        let scale = scale_of(values);
        scales[row] = scale;
        let inverse = 1.0 / scale;
        let quantized = |value: f32| (value * inverse + (ROUND + ZERO_POINT as f32)).to_bits() & 0xff;
        let mut quads = values.chunks_exact(4);
        let mut step = 0;
        for quad in &mut quads {
            packed[step * rows + row] =
                quantized(quad[0]) | quantized(quad[1]) << 8 | quantized(quad[2]) << 16 | quantized(quad[3]) << 24;
            step += 1;
        }
        let rest = quads.remainder();
        if !rest.is_empty() {
            let byte = |i: usize| rest.get(i).map_or(ZERO_POINT as u32, |&value| quantized(value));
            packed[step * rows + row] = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
        }
    }
}

for_each_level! {
    /// Packs a block for f32 panels.
    pub fn pack_f32(x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32]) = block_f32
}
for_each_level! {
    /// Packs a block for bf16 panels.
    pub fn pack_bf16(x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32]) = block_bf16
}
for_each_level! {
    /// Packs a block for 8-bit panels.
    pub fn pack_int8(
        x: &[f32], stride: usize, rows: usize, inputs: usize, packed: &mut [u32], scales: &mut [f32],
    ) = block_int8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_even_and_cover_all_rows() {
        for rows in 1..100 {
            let blocks = Blocks::even(rows, ROWS_MAX);
            let sizes: Vec<usize> = (0..blocks.count()).map(|i| blocks.range(i).len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(max - min <= 1 && *max <= ROWS_MAX, "{rows} rows: {sizes:?}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (value, expected) in [
            (1.0f32, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (-2.0, 0xc000),
            (f32::INFINITY, 0x7f80),
            (f32::NAN, 0x7fc0),
            (f32::from_bits(0x7fff_ffff), 0x7fc0),
        ] {
            assert_eq!(bf16_bits(value), expected, "{value}");
        }
    }
}
