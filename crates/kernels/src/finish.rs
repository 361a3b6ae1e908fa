//! What becomes of a tile's sums: scales and bias, activation, and where it is written.

use crate::level::for_each_level;
use crate::math::{coarse_gelu, gelu, gelu_tanh, silu};
use crate::pack::COLUMNS;
use crate::rows::Disjoint;
use crate::{Activation, Level};

/// What becomes of the sums of a tile, before an activation.
#[derive(Clone, Copy)]
pub enum Finish<'a> {
    /// `sum + bias` of its column.
    Bias(&'a [f32; COLUMNS]),
    /// `sum · factor` of its row.
    Factors(&'a [f32]),
    /// Of 8-bit products.
    Int8(FinishInt8<'a>),
}

/// `unit · scale · (sum - zero point) + bias`.
#[derive(Clone, Copy)]
pub struct FinishInt8<'a> {
    /// What each column's sums are too large by.
    pub zero_point: &'a [i32; COLUMNS],
    /// Of each row.
    pub units: &'a [f32],
    /// Of each column.
    pub scales: &'a [f32; COLUMNS],
    /// Of each column.
    pub bias: &'a [f32; COLUMNS],
}

impl Finish<'_> {
    /// Whether it says what becomes of so many rows.
    #[inline(always)]
    pub fn fits(self, rows: usize) -> bool {
        match self {
            Self::Bias(_) => true,
            Self::Factors(of_rows) | Self::Int8(FinishInt8 { units: of_rows, .. }) => of_rows.len() >= rows,
        }
    }
}

/// Turns the sums of a tile's rows into what becomes of them, in place: the bits of f32.
pub fn finish(level: Level, sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
    assert!(finish.fits(sums.len()));
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx512 {
        // SAFETY: the level says that the CPU has the instructions.
        return unsafe { avx512::finish(sums, finish) };
    }
    finish_sums(level, sums, finish);
}

#[inline(always)]
fn finish_body(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
    for (index, row) in sums.iter_mut().enumerate() {
        for (n, bits) in row.iter_mut().enumerate() {
            let sum = f32::from_bits(*bits);
            let value = match finish {
                Finish::Bias(bias) => sum + bias[n],
                Finish::Factors(factors) => sum * factors[index],
                Finish::Int8(int8) => {
                    let sum = (*bits as i32 - int8.zero_point[n]) as f32;
                    sum * (int8.units[index] * int8.scales[n]) + int8.bias[n]
                }
            };
            *bits = value.to_bits();
        }
    }
}

for_each_level! {
    fn finish_sums(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) = finish_body
}

/// The activation of finished values, the bits of f32, in place. It may be coarse where what comes out is rounded to less than f32.
pub fn activate(level: Level, values: &mut [[u32; COLUMNS]], activation: Option<Activation>, is_coarse: bool) {
    activate_all(level, values.as_flattened_mut(), activation, is_coarse);
}

/// One loop for each, over all values in one piece, so that each becomes vector code with its constants in registers.
#[inline(always)]
fn activate_body<const FMA: bool>(values: &mut [u32], activation: Option<Activation>, is_coarse: bool) {
    match activation {
        None => {}
        Some(Activation::Gelu) if is_coarse => each(values, coarse_gelu::<FMA>),
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
    fn activate_all(values: &mut [u32], activation: Option<Activation>, is_coarse: bool) = fused activate_body
}

/// Where the values of a tile's rows go: `columns` of each, the first from `start` on, the others `stride` apart.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    y: &'a Disjoint<'a, f32>,
    start: usize,
    stride: usize,
    columns: usize,
}

impl<'a> Place<'a> {
    /// # Safety
    /// While this lives, nobody else reads or writes those values of the rows that are written.
    pub unsafe fn new(y: &'a Disjoint<'a, f32>, start: usize, stride: usize, columns: usize) -> Self {
        Self {
            y,
            start,
            stride,
            columns,
        }
    }

    /// Where the first of `rows` whole rows goes, and values from one to the next; nothing when rows are not whole.
    ///
    /// # Panics
    /// When there is no room for so many.
    #[inline(always)]
    pub fn whole_rows(self, rows: usize) -> Option<(*mut f32, usize)> {
        let end = self.start + (rows - 1) * self.stride + COLUMNS;
        // SAFETY: by the promise of `new`.
        let place = || unsafe { self.y.slice(self.start..end) };
        (self.columns == COLUMNS).then(|| (place().as_mut_ptr(), self.stride))
    }

    #[inline(always)]
    fn row(&mut self, index: usize) -> &mut [f32] {
        let start = self.start + index * self.stride;
        // SAFETY: by the promise of `new`.
        unsafe { self.y.slice(start..start + self.columns) }
    }
}

#[inline(always)]
fn write_body(mut place: Place<'_>, rows: &[[u32; COLUMNS]]) {
    for (index, values) in rows.iter().enumerate() {
        let y = place.row(index);
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
    /// Writes rows of values, the bits of f32, to their place.
    pub fn write_rows(place: Place<'_>, rows: &[[u32; COLUMNS]]) = write_body
}

/// [`finish_body`] over registers; from memory, the compiler makes vectors of rows instead of columns.
#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, Finish};

    /// 16 of a panel's columns.
    #[target_feature(enable = "avx512f")]
    pub fn load<T>(columns: &[T; COLUMNS], half: usize) -> __m512 {
        const { assert!(size_of::<T>() == size_of::<f32>()) };
        // SAFETY: one half of the 32 values of 32 bits.
        unsafe { _mm512_loadu_ps(columns.as_ptr().cast::<f32>().add(16 * half)) }
    }

    /// Hands to `$put(row, half, value)` what becomes of the sums `$sum` of a half of a row's columns, for `$rows` rows. A macro,
    /// since a function would get the sums through memory. It is safe where the finish fits so many rows.
    macro_rules! finish_rows {
        ($finish:expr, $rows:expr, |$row:ident, $half:ident| $sum:expr, $put:expr) => {
            match $finish {
                Finish::Bias(bias) => {
                    let bias = [load(bias, 0), load(bias, 1)];
                    for $row in 0..$rows {
                        for $half in 0..2 {
                            $put($row, $half, _mm512_add_ps(_mm512_castsi512_ps($sum), bias[$half]));
                        }
                    }
                }
                Finish::Factors(factors) => {
                    for $row in 0..$rows {
                        // SAFETY: it fits.
                        let factor = _mm512_set1_ps(unsafe { *factors.get_unchecked($row) });
                        for $half in 0..2 {
                            $put($row, $half, _mm512_mul_ps(_mm512_castsi512_ps($sum), factor));
                        }
                    }
                }
                Finish::Int8(int8) => {
                    let zero_point = [load(int8.zero_point, 0), load(int8.zero_point, 1)];
                    let scales = [load(int8.scales, 0), load(int8.scales, 1)];
                    let bias = [load(int8.bias, 0), load(int8.bias, 1)];
                    for $row in 0..$rows {
                        // SAFETY: as above.
                        let unit = _mm512_set1_ps(unsafe { *int8.units.get_unchecked($row) });
                        for $half in 0..2 {
                            let zero_point = _mm512_castps_si512(zero_point[$half]);
                            let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32($sum, zero_point));
                            let scale = _mm512_mul_ps(unit, scales[$half]);
                            $put($row, $half, _mm512_add_ps(_mm512_mul_ps(sum, scale), bias[$half]));
                        }
                    }
                }
            }
        };
    }
    pub(crate) use finish_rows;

    /// As [`finish`](super::finish), which has seen that the finish fits.
    #[target_feature(enable = "avx512f")]
    pub fn finish(sums: &mut [[u32; COLUMNS]], finish: Finish<'_>) {
        let rows = sums.len();
        let place = sums.as_mut_ptr().cast::<f32>();
        let half_of = |row: usize, half: usize| place.wrapping_add(row * COLUMNS + 16 * half);
        // SAFETY: a half of a row.
        let get = |row, half| unsafe { _mm512_castps_si512(_mm512_loadu_ps(half_of(row, half))) };
        // SAFETY: as here.
        let put = |row, half, value| unsafe { _mm512_storeu_ps(half_of(row, half), value) };
        finish_rows!(finish, rows, |row, half| get(row, half), put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(level: Level, inputs: &[f32], kind: Activation, is_coarse: bool) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len()];
        for (y, x) in outputs.chunks_mut(COLUMNS).zip(inputs.chunks(COLUMNS)) {
            let mut sums = [[0; COLUMNS]];
            sums[0].iter_mut().zip(x).for_each(|(sum, x)| *sum = x.to_bits());
            activate(level, &mut sums, Some(kind), is_coarse);
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
            for (kind, is_coarse, error_max) in [
                (Activation::Gelu, false, 5e-7),
                (Activation::Gelu, true, 2e-5),
                (Activation::GeluTanh, false, 5e-7),
                (Activation::Relu, false, 5e-7),
                (Activation::Silu, false, 5e-7),
            ] {
                for (&x, y) in inputs.iter().zip(outputs(level, &inputs, kind, is_coarse)) {
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
                        error < error_max * d.abs().max(1.0),
                        "{level} {kind:?}({x}): error {error:e}"
                    );
                }
            }
        }
    }
}
