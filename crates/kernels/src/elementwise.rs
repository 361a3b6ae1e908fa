//! Sums and products of two matrices, value by value.

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::isa::{Isa, for_each_isa};
use crate::layout::NR;

/// Values of a task, so that handing it to a thread costs less than the work.
const VALUES_PER_TASK: usize = 1 << 13;

/// Adds `y` to `x`, in place.
///
/// # Panics
/// If the sizes do not match.
pub fn add(context: Context<'_>, x: &mut [f32], y: &[f32]) {
    combine(context, x, y, add_values);
}

/// Multiplies `x` by `y`, in place.
///
/// # Panics
/// If the sizes do not match.
pub fn multiply(context: Context<'_>, x: &mut [f32], y: &[f32]) {
    combine(context, x, y, multiply_values);
}

fn combine(context: Context<'_>, x: &mut [f32], y: &[f32], work: fn(Isa, &mut [f32], &[f32])) {
    assert!(x.len() == y.len());
    let tasks = x.len().div_ceil(VALUES_PER_TASK);
    let shared = Disjoint::new(x);
    context.pool.run(tasks, |index| {
        let range = index * VALUES_PER_TASK..shared.len().min((index + 1) * VALUES_PER_TASK);
        let y = &y[range.clone()];
        // SAFETY: each task has its own range.
        let x = unsafe { shared.slice(range) };
        work(context.isa, x, y);
    });
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[inline(always)]
fn multiply_body(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
}

#[inline(always)]
fn multiply_bits_body(x: &mut [[u32; NR]], y: &[[u32; NR]]) {
    for (x, y) in x.as_flattened_mut().iter_mut().zip(y.as_flattened()) {
        *x = (f32::from_bits(*x) * f32::from_bits(*y)).to_bits();
    }
}

for_each_isa! {
    /// Multiplies rows of tiles, the bits of f32.
    pub fn multiply_bits(x: &mut [[u32; NR]], y: &[[u32; NR]]) = multiply_bits_body
}
for_each_isa! {
    pub fn add_values(x: &mut [f32], y: &[f32]) = add_body
}
for_each_isa! {
    fn multiply_values(x: &mut [f32], y: &[f32]) = multiply_body
}
