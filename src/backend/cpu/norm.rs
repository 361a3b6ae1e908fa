//! Layer normalization of rows, with the residual added on the way.

use rayon::prelude::*;

use super::math::sum;

/// Rows a task takes at once, so that the hand-over costs less than the work.
const ROWS_PER_TASK: usize = 32;

/// Normalizes each row of `x` (as wide as `gamma`), after adding `residual`, in place.
pub fn layer_norm(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], beta: &[f32], eps: f32) {
    let width = gamma.len();
    let arch = pulp::Arch::new();
    let chunk = width * ROWS_PER_TASK;
    x.par_chunks_mut(chunk).enumerate().for_each(|(index, rows)| {
        let residual = residual.map(|all| &all[index * chunk..][..rows.len()]);
        arch.dispatch(|| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                if let Some(residual) = residual {
                    let added = &residual[i * width..][..width];
                    row.iter_mut().zip(added).for_each(|(x, r)| *x += r);
                }
                normalize(row, gamma, beta, eps);
            }
        });
    });
}

#[inline(always)]
fn normalize(row: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let width = row.len() as f32;
    let mean = sum(row) / width;
    row.iter_mut().for_each(|x| *x -= mean);
    let mut lanes = [0.0f32; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let squares = lanes.iter().sum::<f32>() + chunks.remainder().iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (squares / width + eps).sqrt();
    for ((x, g), b) in row.iter_mut().zip(gamma).zip(beta) {
        *x = *x * scale * g + b;
    }
}
