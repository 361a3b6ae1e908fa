//! Packing of weights into panels. See [`layout`](crate::layout).

use crate::layout::{K_BLOCK, K_BLOCK_LINES, Line, NR, SPLIT_VALUES, ZERO_LINE, ZERO_POINT};
use crate::rounding::{ROUND, bf16_bits, int8_scale};

/// The panels of a weight `[outputs, inputs]`, of `steps` K-steps, at least as many as the inputs need.
/// `element(output, values)` packs `values_per_step` adjacent values of a row.
fn panels(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
    steps: usize,
    values_per_step: usize,
    element: impl Fn(usize, &[f32]) -> u32,
) -> Vec<Line> {
    let mut lines = vec![ZERO_LINE; outputs.div_ceil(NR) * steps * 2];
    for (panel, lines) in lines.chunks_exact_mut(steps * 2).enumerate() {
        let first = panel * NR;
        for column in first..outputs.min(first + NR) {
            let row = &weight[column * inputs..][..inputs];
            let lane = column - first;
            for (step, values) in row.chunks(values_per_step).enumerate() {
                lines[step * 2 + lane / 16].0[lane % 16] = element(column, values);
            }
        }
    }
    lines
}

/// f32 panels: one value a K-step.
pub fn panels_f32(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> Vec<Line> {
    panels(weight, outputs, inputs, steps, 1, |_, values| values[0].to_bits())
}

/// bf16 panels: two values a K-step, the first in the low half.
pub fn panels_bf16(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> Vec<Line> {
    panels(weight, outputs, inputs, steps, 2, |_, values| {
        let second = values.get(1).map_or(0, |&value| bf16_bits(value));
        bf16_bits(values[0]) | second << 16
    })
}

/// 8-bit panels: four values a K-step, the first in the lowest byte; and for each output the scale that turns its
/// integers back into values.
pub fn panels_int8(weight: &[f32], outputs: usize, inputs: usize, steps: usize) -> (Vec<Line>, Vec<f32>) {
    let scales: Vec<f32> = weight.chunks_exact(inputs).map(int8_scale).collect();
    let lines = panels(weight, outputs, inputs, steps, 4, |output, values| {
        // Rounds as the activations are rounded. `f32::round_ties_even` is a call on CPUs without SSE4.1.
        let quantized = |value: f32| (value / scales[output] + ROUND).to_bits() & 0xff;
        let bytes = values.iter().enumerate();
        bytes.fold(0, |element, (i, &value)| element | quantized(value) << (8 * i))
    });
    (lines, scales)
}

/// A value as two bf16: the nearest, and the nearest to the remainder. Together they have 16 bits of precision.
#[inline(always)]
fn split(value: f32) -> (u32, u32) {
    let high = bf16_bits(value);
    (high, bf16_bits(value - f32::from_bits(high << 16)))
}

/// The f32 panels of AMX, of a weight `[outputs, inputs]`: each `[K-blocks][high, low][16][32]` elements of two values.
pub fn panels_split(weight: &[f32], outputs: usize, inputs: usize) -> Vec<Line> {
    let panel_lines = inputs.div_ceil(SPLIT_VALUES) * 2 * K_BLOCK_LINES;
    let mut lines = vec![ZERO_LINE; outputs.div_ceil(NR) * panel_lines];
    for (output, row) in weight.chunks_exact(inputs).enumerate() {
        let (panel, lane) = (output / NR, output % NR);
        let panel = &mut lines[panel * panel_lines..][..panel_lines];
        for (step, pair) in row.chunks(2).enumerate() {
            let (first, second) = (split(pair[0]), pair.get(1).map_or((0, 0), |&value| split(value)));
            let line = split_line(step) + lane / 16;
            panel[line].0[lane % 16] = first.0 | second.0 << 16;
            panel[line + K_BLOCK_LINES].0[lane % 16] = first.1 | second.1 << 16;
        }
    }
    lines
}

/// The elements, high and low, at `column` of a [`panels_split`] panel's `step` of two values.
pub fn split_elements(panel: &[Line], step: usize, column: usize) -> [u32; 2] {
    let line = split_line(step) + column / 16;
    [panel[line], panel[line + K_BLOCK_LINES]].map(|line| line.0[column % 16])
}

/// The line of a K-step's high halves in a panel.
fn split_line(step: usize) -> usize {
    step / K_BLOCK * 2 * K_BLOCK_LINES + step % K_BLOCK * 2
}

/// The sum of a panel's 8-bit weights in each column, times the zero point: the amount by which sums over unsigned
/// activations are too large.
pub fn zero_point_sums(panel: &[Line]) -> [i32; NR] {
    let mut sums = [0; NR];
    for lines in panel.chunks_exact(2) {
        for (n, sum) in sums.iter_mut().enumerate() {
            let bytes = lines[n / 16].0[n % 16].to_le_bytes();
            *sum += bytes.into_iter().map(|byte| i32::from(byte as i8)).sum::<i32>();
        }
    }
    sums.map(|sum| sum * ZERO_POINT)
}
