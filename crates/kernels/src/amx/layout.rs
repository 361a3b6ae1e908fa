//! f32 weights and activations as two bf16, in the order that tiles read them.

use super::{PART_LINES, TILE, group_values, parts};
use crate::level::for_each_level;
use crate::pack::{COLUMNS, Line, bf16_bits};
use crate::tile::Words;

/// A value as two bf16: the nearest, and the nearest to what is left. Together they hold 16 bits of it.
#[inline(always)]
pub fn split(value: f32) -> (u32, u32) {
    let high = bf16_bits(value);
    (high, bf16_bits(value - f32::from_bits(high << 16)))
}

/// The panels of a weight `[outputs, inputs]` for f32: each `[groups][high, low][16][32]` words of two values.
pub fn panels_split(weight: &[f32], outputs: usize, inputs: usize) -> Vec<Line> {
    let groups = inputs.div_ceil(group_values(Words::F32));
    let panel_lines = groups * 2 * PART_LINES;
    let mut lines = vec![Line([0; 16]); outputs.div_ceil(COLUMNS) * panel_lines];
    for (output, row) in weight.chunks_exact(inputs).enumerate() {
        let (panel, lane) = (output / COLUMNS, output % COLUMNS);
        let panel = &mut lines[panel * panel_lines..][..panel_lines];
        for (step, pair) in row.chunks(2).enumerate() {
            let (first, second) = (split(pair[0]), pair.get(1).map_or((0, 0), |&value| split(value)));
            let line = split_line(step) + lane / 16;
            panel[line].0[lane % 16] = first.0 | second.0 << 16;
            panel[line + PART_LINES].0[lane % 16] = first.1 | second.1 << 16;
        }
    }
    lines
}

/// The words, high and low, at `column` of a [`panels_split`] panel's `step` of two values.
pub fn words_of(panel: &[Line], step: usize, column: usize) -> [u32; 2] {
    let line = split_line(step) + column / 16;
    [panel[line], panel[line + PART_LINES]].map(|line| line.0[column % 16])
}

/// Where a step's high halves lie in a panel.
fn split_line(step: usize) -> usize {
    step / TILE * 2 * PART_LINES + step % TILE * 2
}

/// Packs a block of rows of `x` `[rows, inputs]` for f32 into `[groups][high, low][stored][16]` words. Rows beyond the
/// end keep what is there: their sums are nobody's.
///
/// # Panics
/// When the sizes do not fit together.
pub fn split_rows(level: crate::Level, x: &[f32], inputs: usize, stored: usize, packed: &mut [u32]) {
    let groups = inputs.div_ceil(group_values(Words::F32));
    let part = stored * TILE;
    assert!(x.len() <= stored * inputs && packed.len() == groups * parts(Words::F32) * part);
    high_and_low(level, x, inputs, part, packed);
}

#[inline(always)]
fn halves_body(x: &[f32], inputs: usize, part: usize, packed: &mut [u32]) {
    const VALUES: usize = group_values(Words::F32);
    for (row, values) in x.chunks_exact(inputs).enumerate() {
        let mut groups = packed.chunks_exact_mut(2 * part);
        let mut write = |values: &[f32; VALUES]| {
            let group = groups.next().expect("as many groups as the values need");
            let mut parts = [[0u32; TILE]; 2];
            for i in 0..TILE {
                let (first, second) = (split(values[2 * i]), split(values[2 * i + 1]));
                parts[0][i] = first.0 | second.0 << 16;
                parts[1][i] = first.1 | second.1 << 16;
            }
            for (i, words) in parts.iter().enumerate() {
                group[i * part + row * TILE..][..TILE].copy_from_slice(words);
            }
        };
        let (whole, rest) = values.as_chunks::<VALUES>();
        whole.iter().for_each(&mut write);
        if !rest.is_empty() {
            let mut padded = [0.0; VALUES];
            padded[..rest.len()].copy_from_slice(rest);
            write(&padded);
        }
    }
}

for_each_level! {
    fn high_and_low(x: &[f32], inputs: usize, part: usize, packed: &mut [u32]) = halves_body
}
