//! Rotary position embeddings: <https://arxiv.org/abs/2104.09864>.

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::isa::{Isa, for_each_isa};

/// Rows of a task, so that handing it to a thread costs less than the work.
const ROWS_PER_TASK: usize = 16;

/// The rotation of pairs of columns by an angle for each position and pair.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    pub pairing: Pairing,
    /// Columns of a head, even.
    pub head_size: usize,
    /// Cosines, `[positions, head_size / 2]`.
    pub cos: &'a [f32],
    /// Sines, `[positions, head_size / 2]`.
    pub sin: &'a [f32],
}

/// Columns of a head that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Column `i` and column `i + head_size / 2`.
    Halves,
    /// Column `2 i` and column `2 i + 1`.
    Neighbours,
}

/// Rotates the first `heads` heads of each row of `x` `[positions.len(), columns]` in place; further columns stay.
///
/// # Panics
/// If the sizes do not match, or a position is beyond the table.
pub fn rotate(context: Context<'_>, x: &mut [f32], heads: usize, rotation: Rotation<'_>, positions: &[u32]) {
    if positions.is_empty() {
        return assert!(x.is_empty());
    }
    let columns = x.len() / positions.len();
    rotation.check(rotation.head_size);
    assert!(x.len() == columns * positions.len() && heads * rotation.head_size <= columns);
    let tasks = positions.len().div_ceil(ROWS_PER_TASK);
    let shared = Disjoint::new(x);
    context.pool.run(tasks, |index| {
        let rows = index * ROWS_PER_TASK..positions.len().min((index + 1) * ROWS_PER_TASK);
        // SAFETY: each task has its own rows.
        let x = unsafe { shared.slice(rows.start * columns..rows.end * columns) };
        rotate_rows(context.isa, x, columns, heads, rotation, &positions[rows]);
    });
}

impl Rotation<'_> {
    /// # Panics
    /// If it is not a rotation of heads of `size` columns.
    pub(crate) fn check(&self, size: usize) {
        assert!(self.head_size == size && size > 0 && size.is_multiple_of(2) && self.cos.len() == self.sin.len());
    }
}

/// [`rotate`] on this thread, of rows of `columns` values.
pub(crate) fn rotate_rows(
    isa: Isa,
    x: &mut [f32],
    columns: usize,
    heads: usize,
    rotation: Rotation<'_>,
    positions: &[u32],
) {
    let half = rotation.head_size / 2;
    for (row, &position) in x.chunks_exact_mut(columns).zip(positions) {
        let angles = position as usize * half..(position as usize + 1) * half;
        let row = &mut row[..heads * rotation.head_size];
        let (cos, sin) = (&rotation.cos[angles.clone()], &rotation.sin[angles]);
        match rotation.pairing {
            Pairing::Halves => rotate_halves(isa, row, cos, sin),
            Pairing::Neighbours => rotate_neighbours(isa, row, cos, sin),
        }
    }
}

#[inline(always)]
fn halves_body(row: &mut [f32], cos: &[f32], sin: &[f32]) {
    for head in row.chunks_exact_mut(2 * cos.len()) {
        let (left, right) = head.split_at_mut(cos.len());
        for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
            (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
        }
    }
}

#[inline(always)]
fn neighbours_body(row: &mut [f32], cos: &[f32], sin: &[f32]) {
    for head in row.chunks_exact_mut(2 * cos.len()) {
        let (pairs, _) = head.as_chunks_mut::<2>();
        for (([left, right], cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
            (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
        }
    }
}

for_each_isa! {
    fn rotate_halves(row: &mut [f32], cos: &[f32], sin: &[f32]) = halves_body
}
for_each_isa! {
    fn rotate_neighbours(row: &mut [f32], cos: &[f32], sin: &[f32]) = neighbours_body
}
