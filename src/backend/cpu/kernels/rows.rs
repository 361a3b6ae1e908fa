//! Work along rows: layer normalization, softmax, bias and activation.

use crate::level::for_each_level;
use crate::math::{gelu, gelu_tanh, sigmoid, sum};
use crate::pack::COLUMNS;
use crate::{Activation, Context, Level};

/// Rows a task takes at once, so that the hand-over costs less than the work.
const ROWS_PER_TASK: usize = 16;

/// A layer normalization's parameters, each as wide as a row.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Scale.
    pub gamma: &'a [f32],
    /// Shift.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Normalizes each row of `x` (as wide as `gamma`), after adding `residual`, in place.
///
/// # Panics
/// When the sizes do not fit together.
pub fn layer_norm(context: Context<'_>, x: &mut [f32], residual: Option<&[f32]>, norm: Norm<'_>) {
    let width = norm.gamma.len();
    assert!(norm.beta.len() == width && x.len().is_multiple_of(width));
    assert!(residual.is_none_or(|residual| residual.len() == x.len()));
    let chunk = width * ROWS_PER_TASK;
    let tasks = x.len().div_ceil(chunk);
    let rows = Disjoint::new(x);
    context.pool.run(tasks, |index| {
        let range = index * chunk..rows.len().min((index + 1) * chunk);
        let residual = residual.map(|all| &all[range.clone()]);
        // SAFETY: every task has a range of its own.
        let rows = unsafe { rows.slice(range) };
        normalize_rows(context.level, rows, residual, norm);
    });
}

#[inline(always)]
fn normalize_body(rows: &mut [f32], residual: Option<&[f32]>, norm: Norm<'_>) {
    let width = norm.gamma.len();
    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
        if let Some(residual) = residual {
            let added = &residual[i * width..][..width];
            row.iter_mut().zip(added).for_each(|(x, r)| *x += r);
        }
        let mean = sum(row) / width as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let mut lanes = [0.0f32; 16];
        let mut chunks = row.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x * x;
            }
        }
        let squares = lanes.iter().sum::<f32>() + chunks.remainder().iter().map(|x| x * x).sum::<f32>();
        let scale = 1.0 / (squares / width as f32 + norm.eps).sqrt();
        for ((x, g), b) in row.iter_mut().zip(norm.gamma).zip(norm.beta) {
            *x = *x * scale * g + b;
        }
    }
}

for_each_level! {
    pub fn normalize_rows(rows: &mut [f32], residual: Option<&[f32]>, norm: Norm<'_>) = normalize_body
}

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

#[inline(always)]
fn each(values: &mut [f32; COLUMNS], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
}

/// One row.
#[inline(always)]
fn finish_row<const FMA: bool>(sums: &[u32; COLUMNS], row: usize, finish: Finish<'_>) -> [f32; COLUMNS] {
    let mut values = [0.0; COLUMNS];
    match finish.int8 {
        None => {
            for n in 0..COLUMNS {
                values[n] = f32::from_bits(sums[n]) + finish.bias[n];
            }
        }
        Some(int8) => {
            let unit = int8.units[row];
            for n in 0..COLUMNS {
                let sum = (sums[n] as i32 - int8.zero_point[n]) as f32;
                values[n] = sum * (unit * int8.scales[n]) + finish.bias[n];
            }
        }
    }
    // One loop a case, over a size that the compiler knows, so that each becomes vector code.
    match finish.activation {
        None => {}
        Some(Activation::Gelu) => each(&mut values, gelu::<FMA>),
        Some(Activation::GeluTanh) => each(&mut values, gelu_tanh::<FMA>),
        Some(Activation::Relu) => each(&mut values, |x| x.max(0.0)),
        Some(Activation::Silu) => each(&mut values, |x| x * sigmoid::<FMA>(x)),
    }
    values
}

#[inline(always)]
fn finish_body<const FMA: bool>(
    y: &Disjoint<'_, f32>,
    start: usize,
    stride: usize,
    columns: usize,
    sums: &[[u32; COLUMNS]],
    finish: Finish<'_>,
) {
    for (row, sums) in sums.iter().enumerate() {
        let values = finish_row::<FMA>(sums, row, finish);
        let start = start + row * stride;
        // SAFETY: the caller of `finish` has these columns of these rows for itself.
        let y = unsafe { y.slice(start..start + columns) };
        match <&mut [f32; COLUMNS]>::try_from(&mut *y) {
            Ok(whole) => *whole = values,
            Err(_) => y.copy_from_slice(&values[..columns]),
        }
    }
}

for_each_level! {
    fn finish_rows(
        y: &Disjoint<'_, f32>, start: usize, stride: usize, columns: usize, sums: &[[u32; COLUMNS]], finish: Finish<'_>,
    ) = fused finish_body
}

/// Writes what becomes of the rows of `sums` to `columns` values of `y` each, the first from `start` on, the others
/// `stride` apart.
///
/// # Safety
/// Nobody else reads or writes those values meanwhile.
pub unsafe fn finish(
    level: Level,
    y: &Disjoint<'_, f32>,
    start: usize,
    stride: usize,
    columns: usize,
    sums: &[[u32; COLUMNS]],
    finish: Finish<'_>,
) {
    finish_rows(level, y, start, stride, columns, sums, finish);
}

/// A slice whose parts several tasks write at once.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by an unsafe function alone, whose callers promise that they do not overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: std::marker::PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap.
    ///
    /// # Panics
    /// When the range is not within the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: std::ops::Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice, which is borrowed for as long as `self` lives; no overlap by promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(level: Level, inputs: &[f32], kind: Activation) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len()];
        for (y, x) in outputs.chunks_mut(COLUMNS).zip(inputs.chunks(COLUMNS)) {
            let mut sums = [0; COLUMNS];
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = x.to_bits());
            let how = Finish {
                bias: &[0.0; COLUMNS],
                activation: Some(kind),
                int8: None,
            };
            let (y, columns) = (Disjoint::new(y), x.len());
            // SAFETY: nobody else has them.
            unsafe { finish(level, &y, 0, columns, columns, &[sums], how) };
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
                        error < 1e-6 * d.abs().max(1.0),
                        "{level} {kind:?}({x}): error {error:e}"
                    );
                }
            }
        }
    }
}
