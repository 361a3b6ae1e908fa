//! The largest logit of each column over the rows of a sequence.

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::isa::for_each_isa;

/// Columns of one task: they stay in the first-level cache while the rows pass.
const BLOCK: usize = 4 * 1024;

/// Raises each value of `pooled` `[columns]` to the largest of its column in `logits` `[rows, columns]`. A NaN raises
/// nothing.
///
/// # Panics
/// If the sizes do not match.
pub fn max_pool_logits(context: Context<'_>, logits: &[f32], pooled: &mut [f32]) {
    let columns = pooled.len();
    assert!(logits.len().is_multiple_of(columns.max(1)));
    let pooled = Disjoint::new(pooled);
    context.pool.run(columns.div_ceil(BLOCK), |block| {
        let block = block * BLOCK..columns.min((block + 1) * BLOCK);
        // SAFETY: each task has its own columns.
        let pooled = unsafe { pooled.slice(block.clone()) };
        for row in logits.chunks_exact(columns) {
            raise(context.isa, &row[block.clone()], pooled);
        }
    });
}

#[inline(always)]
fn raise_body(row: &[f32], pooled: &mut [f32]) {
    for (largest, &value) in pooled.iter_mut().zip(row) {
        *largest = if value > *largest { value } else { *largest };
    }
}

for_each_isa! {
    fn raise(row: &[f32], pooled: &mut [f32]) = raise_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool};

    #[test]
    fn columns_are_raised_to_their_largest_value() {
        let pool = Pool::new(2).unwrap();
        for isa in Isa::available() {
            for columns in [1, 15, 4096, 9001] {
                let context = Context { pool: &pool, isa };
                let value = |row: usize, column: usize| ((row * 7919 + column * 104_729) % 1009) as f32 - 500.0;
                let logits: Vec<f32> = (0..5 * columns).map(|at| value(at / columns, at % columns)).collect();
                let mut pooled = vec![0.0; columns];
                max_pool_logits(context, &logits, &mut pooled);
                for (column, &largest) in pooled.iter().enumerate() {
                    let expected = (0..5).map(|row| value(row, column)).fold(0.0, f32::max);
                    assert_eq!(largest, expected, "{isa} {columns} {column}");
                }
            }
        }
    }
}
