//! Work along rows: layer normalization.

use crate::Context;
use crate::level::for_each_level;
use crate::math::sum_of;

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
        let mean = sum_of(row, |x| x) / width as f32;
        let squares = sum_of(row, |x| (x - mean) * (x - mean));
        let scale = 1.0 / (squares / width as f32 + norm.eps).sqrt();
        for ((x, g), b) in row.iter_mut().zip(norm.gamma).zip(norm.beta) {
            *x = (*x - mean) * scale * g + b;
        }
    }
}

for_each_level! {
    pub fn normalize_rows(rows: &mut [f32], residual: Option<&[f32]>, norm: Norm<'_>) = normalize_body
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
