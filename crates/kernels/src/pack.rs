//! Weights and activations in the order that a tile reads them.
//!
//! A tile walks along the inner dimension in *steps*. In a step, each of 32 columns has 32 bits of weights and each
//! row 32 bits of activations: one f32, two bf16, or four 8-bit integers. Sixteen steps are a *group*. So all precisions
//! share one layout:
//!
//! - weights: panels of 32 columns, each `[steps][32]` words, two cache lines a step; columns and steps beyond the
//!   end are zero;
//! - activations: blocks of rows, each `[groups][rows][16]` words, a cache line for each row of each group.
//!
//! Both are read from front to back, which is what the hardware fetches ahead of time, whatever the strides of the
//! matrices were; and a row is packed in whole lines.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::Level;
use crate::level::for_each_level;
use crate::tile::Words;

/// Columns of a panel.
pub const COLUMNS: usize = 32;
/// Steps of a group: words of a row that lie side by side.
pub const GROUP: usize = 16;
/// Rows of a block at most, but for AMX: 12 rows of two 16-value registers fill 24 of AVX-512's 32, and leave room for operands.
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

/// The steps of a panel as rows of words.
pub fn as_rows(lines: &mut [Line]) -> &mut [[u32; COLUMNS]] {
    let steps = lines.len() / 2;
    // SAFETY: two lines are 32 words without anything between them, aligned to more than a word; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), steps) }
}

/// The bits of f32 as what they are.
pub fn as_f32(rows: &[[u32; COLUMNS]]) -> &[f32] {
    let words = rows.as_flattened();
    // SAFETY: an f32 has the size and alignment of a word, and every word is a valid one; the borrow passes on.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// Words of a step in a panel's column, f32 as they are.
fn f32_word(values: &[f32]) -> u32 {
    values[0].to_bits()
}

/// Rounds to the nearest bf16, ties to even.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u32 {
    const NAN: u32 = 0x7fc0;
    if value.is_nan() { NAN } else { rounded_bf16(value) }
}

/// The same for what is a number, or need not stay none.
#[inline(always)]
pub fn rounded_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

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
pub fn panels_f32(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> Vec<Line> {
    panels(weight, outputs, inputs, steps, 1, |_, values| f32_word(values))
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
        // Rounds as the activations do: the function of that name is a call where SSE4.1 is not certain.
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
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for n in 0..16 {
            lanes[n] = lanes[n].max(chunk[n].abs());
            not_numbers[n] += chunk[n] * 0.0;
        }
    }
    for (n, value) in rest.iter().enumerate() {
        lanes[n] = lanes[n].max(value.abs());
        not_numbers[n] += value * 0.0;
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

    /// So many blocks.
    pub fn parts(rows: usize, count: usize) -> Self {
        Self {
            rows,
            count,
            full: None,
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

/// Rows to pack.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Their values, from the first row on.
    pub x: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// Values of a row.
    pub inputs: usize,
    /// How many there are.
    pub count: usize,
    /// How many the block has room for.
    pub stored: usize,
}

impl<'a> Rows<'a> {
    /// The values of each.
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        let rows = self.x.chunks(self.stride).take(self.count);
        rows.map(move |row| &row[..self.inputs])
    }
}

/// Packs rows into `[groups][stored][16]` words; what there is beyond the last row stays. Values beyond the last input become
/// zero. For 8 bits, `scales` receives what one unit of each row stands for.
///
/// # Panics
/// When the sizes do not fit together.
pub fn pack_rows(level: Level, words: Words, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    let groups = rows.inputs.div_ceil(GROUP * words.values());
    assert!(rows.count <= rows.stored && packed.len() == groups * rows.stored * GROUP);
    match words {
        Words::F32 if level >= Level::Avx512 => pack_f32_whole(rows, packed),
        Words::F32 => pack_f32(level, rows, packed),
        Words::Bf16 if level >= Level::Avx512Bf16 => pack_bf16_whole(rows, packed),
        Words::Bf16 => pack_bf16(level, rows, packed),
        Words::Int8 if level >= Level::Avx512 => pack_int8_whole(rows, packed, scales),
        Words::Int8 => pack_int8(level, rows, packed, scales),
    }
}

/// Writes the words of a row, `N` values for each group; `line` makes a group's words. It is called in one place, so that it
/// becomes a part of its caller, with the caller's instructions.
#[inline(always)]
fn write_groups<const N: usize>(
    values: &[f32],
    stored: usize,
    packed: &mut [u32],
    line: impl Fn(&[f32; N]) -> [u32; GROUP],
) {
    let places = packed.chunks_mut(stored * GROUP);
    for (values, place) in values.chunks(N).zip(places) {
        let mut padded = [0.0; N];
        let whole = match values.first_chunk() {
            Some(whole) => whole,
            None => {
                padded[..values.len()].copy_from_slice(values);
                &padded
            }
        };
        *place.first_chunk_mut().expect("a group of a row") = line(whole);
    }
}

#[inline(always)]
fn rows_f32(rows: Rows<'_>, packed: &mut [u32]) {
    for (index, values) in rows.iter().enumerate() {
        let packed = &mut packed[index * GROUP..];
        write_groups::<GROUP>(values, rows.stored, packed, |values| values.map(f32::to_bits));
    }
}

#[inline(always)]
fn rows_bf16(rows: Rows<'_>, packed: &mut [u32]) {
    for (index, values) in rows.iter().enumerate() {
        let packed = &mut packed[index * GROUP..];
        write_groups::<{ 2 * GROUP }>(values, rows.stored, packed, |values| {
            std::array::from_fn(|i| bf16_bits(values[2 * i]) | bf16_bits(values[2 * i + 1]) << 16)
        });
    }
}

#[inline(always)]
fn rows_int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    for (index, values) in rows.iter().enumerate() {
        let scale = scale_of(values);
        scales[index] = scale;
        let inverse = 1.0 / scale;
        let quantized = |value: f32| (value * inverse + (ROUND + ZERO_POINT as f32)).to_bits() & 0xff;
        let packed = &mut packed[index * GROUP..];
        write_groups::<{ 4 * GROUP }>(values, rows.stored, packed, |values| {
            // In two loops, each of which becomes vector code.
            let bytes: [u8; 4 * GROUP] = std::array::from_fn(|i| quantized(values[i]) as u8);
            let word = |i: usize| [bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]];
            std::array::from_fn(|i| u32::from_le_bytes(word(i)))
        });
    }
}

for_each_level! {
    fn pack_f32(rows: Rows<'_>, packed: &mut [u32]) = rows_f32
}
for_each_level! {
    fn pack_bf16(rows: Rows<'_>, packed: &mut [u32]) = rows_bf16
}
for_each_level! {
    fn pack_int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) = rows_int8
}

/// [`pack_f32`], writing from front to back.
fn pack_f32_whole(rows: Rows<'_>, packed: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: called for levels that have AVX-512 alone.
    unsafe {
        avx512::f32(rows, packed);
    }
    #[cfg(not(target_arch = "x86_64"))]
    rows_f32(rows, packed);
}

/// [`pack_bf16`] with the instruction that rounds 32 values at once. It takes denormal numbers for zero, as the
/// products do.
fn pack_bf16_whole(rows: Rows<'_>, packed: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: called for levels that have bf16 alone.
    unsafe {
        avx512::bf16(rows, packed);
    }
    #[cfg(not(target_arch = "x86_64"))]
    rows_bf16(rows, packed);
}

/// [`pack_int8`], of which the compiler makes far slower code.
fn pack_int8_whole(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: called for levels that have AVX-512 alone.
    unsafe {
        avx512::int8(rows, packed, scales);
    }
    #[cfg(not(target_arch = "x86_64"))]
    rows_int8(rows, packed, scales);
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
