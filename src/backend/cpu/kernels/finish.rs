//! What becomes of a tile's sums: scales and bias, activation, and where it is written.

use crate::level::for_each_level;
use crate::math::{gelu, gelu_tanh, silu};
use crate::pack::COLUMNS;
use crate::rows::Disjoint;
use crate::{Activation, Level};

/// What becomes of the sums of a tile: `activation(unit · scale · (sum - zero point) + bias)` for 8 bits, else
/// `activation(sum + bias)`.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    pub bias: &'a [f32; COLUMNS],
    pub activation: Option<Activation>,
    pub int8: Option<FinishInt8<'a>>,
}

/// What sums of 8-bit products stand for.
#[derive(Clone, Copy)]
pub struct FinishInt8<'a> {
    /// What each column's sums are too large by.
    pub zero_point: &'a [i32; COLUMNS],
    /// Of each row.
    pub units: &'a [f32],
    /// Of each column.
    pub scales: &'a [f32; COLUMNS],
}

/// Turns the sums of a tile's rows into what becomes of them, in place: the bits of f32.
pub fn finish(level: Level, sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
    assert!(finish.int8.is_none_or(|int8| int8.units.len() >= sums.len()));
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx512 {
        // SAFETY: the level says that the CPU has the instructions.
        unsafe { avx512::add_bias(sums, finish) };
        return activate(level, sums.as_flattened_mut(), finish.activation);
    }
    add_bias(level, sums, finish);
    activate(level, sums.as_flattened_mut(), finish.activation);
}

#[inline(always)]
fn bias_body(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
    for (index, row) in sums.iter_mut().enumerate() {
        let unit = finish.int8.map_or(0.0, |int8| int8.units[index]);
        for (n, bits) in row.iter_mut().enumerate() {
            let value = match finish.int8 {
                None => f32::from_bits(*bits),
                Some(int8) => (*bits as i32 - int8.zero_point[n]) as f32 * (unit * int8.scales[n]),
            };
            *bits = (value + finish.bias[n]).to_bits();
        }
    }
}

/// One loop for each, over all values in one piece, so that each becomes vector code with its constants in registers.
#[inline(always)]
fn activate_body<const FMA: bool>(values: &mut [u32], activation: Option<Activation>) {
    match activation {
        None => {}
        Some(Activation::Gelu) => each(values, gelu::<FMA>),
        Some(Activation::GeluTanh) => each(values, gelu_tanh::<FMA>),
        Some(Activation::Relu) => each(values, |x| x.max(0.0)),
        Some(Activation::Silu) => each(values, silu::<FMA>),
    }
}

#[inline(always)]
fn each(values: &mut [u32], function: impl Fn(f32) -> f32) {
    for bits in values {
        *bits = function(f32::from_bits(*bits)).to_bits();
    }
}

for_each_level! {
    fn add_bias(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) = bias_body
}
for_each_level! {
    fn activate(values: &mut [u32], activation: Option<Activation>) = fused activate_body
}

/// [`bias_body`], of which the compiler makes vectors of rows instead of columns.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, Finish};

    /// 16 of a panel's columns.
    #[target_feature(enable = "avx512f")]
    fn load<T>(columns: &[T; COLUMNS], half: usize) -> __m512 {
        const { assert!(size_of::<T>() == size_of::<f32>()) };
        // SAFETY: one half of the 32 values of 32 bits.
        unsafe { _mm512_loadu_ps(columns.as_ptr().cast::<f32>().add(16 * half)) }
    }

    #[target_feature(enable = "avx512f")]
    pub fn add_bias(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
        for half in 0..2 {
            let bias = load(finish.bias, half);
            // SAFETY: one half of a row's 32 words.
            let write = |row: &mut [u32; COLUMNS], value| unsafe {
                _mm512_storeu_ps(row.as_mut_ptr().cast::<f32>().add(16 * half), value);
            };
            match finish.int8 {
                None => {
                    for row in sums.iter_mut() {
                        let sum = load(row, half);
                        write(row, _mm512_add_ps(sum, bias));
                    }
                }
                Some(int8) => {
                    let zero_point = _mm512_castps_si512(load(int8.zero_point, half));
                    let scale = load(int8.scales, half);
                    for (row, unit) in sums.iter_mut().zip(int8.units) {
                        let sum = _mm512_castps_si512(load(row, half));
                        let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, zero_point));
                        let scale = _mm512_mul_ps(_mm512_set1_ps(*unit), scale);
                        write(row, _mm512_add_ps(_mm512_mul_ps(sum, scale), bias));
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn write_body(y: &Disjoint<'_, f32>, start: usize, stride: usize, columns: usize, rows: &[[u32; COLUMNS]]) {
    for (row, values) in rows.iter().enumerate() {
        let start = start + row * stride;
        // SAFETY: the caller of `write_rows` has these columns of these rows for itself.
        let y = unsafe { y.slice(start..start + columns) };
        match y.first_chunk_mut::<COLUMNS>() {
            // In two loops, so that the first is of a size that the compiler knows.
            Some(whole) => whole
                .iter_mut()
                .zip(values)
                .for_each(|(y, bits)| *y = f32::from_bits(*bits)),
            None => y
                .iter_mut()
                .zip(values)
                .for_each(|(y, bits)| *y = f32::from_bits(*bits)),
        }
    }
}

for_each_level! {
    fn write_values(
        y: &Disjoint<'_, f32>, start: usize, stride: usize, columns: usize, rows: &[[u32; COLUMNS]],
    ) = write_body
}

/// Writes `columns` values of each row, the bits of f32, to `y`: the first from `start` on, the others `stride` apart.
///
/// # Safety
/// Nobody else reads or writes those values meanwhile.
pub unsafe fn write_rows(
    level: Level,
    y: &Disjoint<'_, f32>,
    start: usize,
    stride: usize,
    columns: usize,
    rows: &[[u32; COLUMNS]],
) {
    write_values(level, y, start, stride, columns, rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(level: Level, inputs: &[f32], kind: Activation) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len()];
        for (y, x) in outputs.chunks_mut(COLUMNS).zip(inputs.chunks(COLUMNS)) {
            let mut sums = [[0; COLUMNS]];
            sums[0].iter_mut().zip(x).for_each(|(sum, x)| *sum = x.to_bits());
            let how = Finish {
                bias: &[0.0; COLUMNS],
                activation: Some(kind),
                int8: None,
            };
            finish(level, &mut sums, how);
            y.iter_mut()
                .zip(sums[0])
                .for_each(|(y, bits)| *y = f32::from_bits(bits));
        }
        outputs
    }

    #[test]
    fn activations_are_close_to_f64() {
        let erf = |x: f64| {
            // Maclaurin series; enough terms for |x| < 5, saturated beyond.
            if x.abs() > 5.0 {
                return x.signum();
            }
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let inputs: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 * 1e-3).collect();
        for level in Level::available() {
            for kind in [
                Activation::Gelu,
                Activation::GeluTanh,
                Activation::Relu,
                Activation::Silu,
            ] {
                for (&x, y) in inputs.iter().zip(outputs(level, &inputs, kind)) {
                    let d = f64::from(x);
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
                    let exact = match kind {
                        Activation::Gelu => 0.5 * d * (1.0 + erf(d * std::f64::consts::FRAC_1_SQRT_2)),
                        Activation::GeluTanh => 0.5 * d * (1.0 + inner.tanh()),
                        Activation::Relu => d.max(0.0),
                        Activation::Silu => d / (1.0 + (-d).exp()),
                    };
                    let error = (f64::from(y) - exact).abs();
                    assert!(
                        error < 5e-7 * d.abs().max(1.0),
                        "{level} {kind:?}({x}): error {error:e}"
                    );
                }
            }
        }
    }
}
