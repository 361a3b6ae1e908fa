//! Layer and root-mean-square normalization of rows, with an optional residual.

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::isa::for_each_isa;
use crate::math::sum_of;

/// Rows of a task, so that handing it to a thread costs less than the work.
const ROWS_PER_TASK: usize = 16;

/// Statistics that a normalization divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Subtract the mean, divide by the standard deviation.
    Layer,
    /// Divide by the root of the mean square.
    RootMeanSquare,
}

/// Parameters of a normalization; `gamma` and `beta` are as wide as a row.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub kind: NormKind,
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Adds `residual` to `x` and normalizes each row, in place. Both are `[rows, width]`, `width` being that of `gamma`.
///
/// # Panics
/// If the sizes do not match.
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
        // SAFETY: each task has its own range.
        let rows = unsafe { rows.slice(range) };
        normalize_rows(context.isa, rows, residual, norm);
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
        let mean = match norm.kind {
            NormKind::Layer => sum_of(row, |x| x) / width as f32,
            NormKind::RootMeanSquare => 0.0,
        };
        let squares = sum_of(row, |x| (x - mean) * (x - mean));
        let scale = 1.0 / (squares / width as f32 + norm.eps).sqrt();
        for ((x, g), b) in row.iter_mut().zip(norm.gamma).zip(norm.beta) {
            *x = (*x - mean) * scale * g + b;
        }
    }
}

for_each_isa! {
    pub fn normalize_rows(rows: &mut [f32], residual: Option<&[f32]>, norm: Norm<'_>) = normalize_body
}
