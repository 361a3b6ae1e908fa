//! The epilogue of dense layers whose outputs are pooled over the rows of a sequence: each tile of values is pooled as
//! soon as it is computed, so that the outputs of all rows are never stored.

use std::ops::Range;

use crate::disjoint::Disjoint;
use crate::isa::{Isa, for_each_isa};
use crate::layout::NR;
use crate::math::ln_1p;

/// The operation that pools values `v` to one. NaN and +infinity stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest `max(v, 0)`.
    Max,
    /// The sum of `ln(1 + max(v, 0))`.
    SumLog1p,
}

/// Rows of a layer's input whose outputs are pooled to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PooledRows {
    pub rows: Range<usize>,
    /// The row of the result.
    pub to: usize,
    pub pooling: Pooling,
}

/// The results of a layer whose outputs are pooled.
pub(crate) struct Pooled<'a> {
    pools: &'a [PooledRows],
    outputs: usize,
    values: Disjoint<'a, f32>,
}

impl<'a> Pooled<'a> {
    /// The results `values` `[any number of rows, outputs]` of a layer whose input has `rows` rows.
    ///
    /// # Panics
    /// If the sizes do not match, or the rows of `pools` do not ascend.
    pub fn new(pools: &'a [PooledRows], rows: usize, outputs: usize, values: &'a mut [f32]) -> Self {
        let fits = |pool: &PooledRows| pool.rows.start <= pool.rows.end && pool.rows.end <= rows;
        assert!(values.len().is_multiple_of(outputs));
        assert!(pools.iter().all(|pool| fits(pool) && pool.to < values.len() / outputs));
        assert!(pools.is_sorted_by(|pool, next| pool.rows.end <= next.rows.start));
        Self {
            pools,
            outputs,
            values: Disjoint::new(values),
        }
    }

    /// Pools a tile: values, the bits of f32, of the rows from `first` on, and of `columns` columns from `column` on.
    ///
    /// # Safety
    /// No other thread pools values of these columns.
    pub unsafe fn add(&self, isa: Isa, first: usize, tile: &[[u32; NR]], column: usize, columns: usize) {
        let end = first + tile.len();
        let begin = self.pools.partition_point(|pool| pool.rows.end <= first);
        for PooledRows { rows, to, pooling } in self.pools[begin..].iter().take_while(|pool| pool.rows.start < end) {
            let rows = rows.start.max(first) - first..rows.end.min(end) - first;
            let start = to * self.outputs + column;
            // SAFETY: columns of this thread alone, by the caller's promise.
            let pooled = unsafe { self.values.slice(start..start + columns) };
            pool_rows(isa, &tile[rows], *pooling, pooled);
        }
    }
}

/// `max(value, 0)` of the bits of a value, without the sign of -0. NaN stays, as the positive one.
#[inline(always)]
fn relu(bits: u32) -> f32 {
    let value = f32::from_bits(bits);
    let positive = if value < 0.0 { 0.0 } else { value };
    positive.abs()
}

#[inline(always)]
fn pool_body<const FMA: bool>(rows: &[[u32; NR]], pooling: Pooling, pooled: &mut [f32]) {
    let mut values = [0.0; NR];
    values[..pooled.len()].copy_from_slice(pooled);
    match pooling {
        // Values that are not negative are ordered as their bits are, and NaN is above all.
        Pooling::Max => {
            let mut largest = values.map(f32::to_bits);
            for row in rows {
                for (largest, &bits) in largest.iter_mut().zip(row) {
                    *largest = relu(bits).to_bits().max(*largest);
                }
            }
            values = largest.map(f32::from_bits);
        }
        Pooling::SumLog1p => {
            for row in rows {
                for (sum, &bits) in values.iter_mut().zip(row) {
                    *sum += ln_1p::<FMA>(relu(bits));
                }
            }
        }
    }
    pooled.copy_from_slice(&values[..pooled.len()]);
}

for_each_isa! {
    fn pool_rows(rows: &[[u32; NR]], pooling: Pooling, pooled: &mut [f32]) = fused pool_body
}
