//! Pooling of logits over the rows of a sequence, as SPLADE does.

use std::ops::Range;

use super::{EncoderBackend, Tensor};

/// Operation that turns the rows of a sequence into one weight for each token of the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The maximum of `log(1 + relu(logit))`.
    #[default]
    Max,
    /// Its sum.
    Sum,
}

impl Pooling {
    /// The weight of a pooled value: for [`Max`](Self::Max) `relu(logit)` is pooled.
    pub fn weight(self, pooled: f32) -> f32 {
        match self {
            Self::Max => pooled.ln_1p(),
            Self::Sum => pooled,
        }
    }
}

/// Rows of a layer's input whose outputs are pooled to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PooledRows {
    pub rows: Range<usize>,
    /// The row of the result.
    pub to: usize,
    pub pooling: Pooling,
}

impl PooledRows {
    /// The parts of `pools` within `block`, counted from row `first`. Rows ascend.
    pub fn within(pools: &[Self], block: &Range<usize>, first: usize) -> Vec<Self> {
        let parts = pools.iter().filter_map(|pool| {
            let rows = pool.rows.start.max(block.start)..pool.rows.end.min(block.end);
            (!rows.is_empty()).then(|| Self {
                rows: rows.start - first..rows.end - first,
                ..pool.clone()
            })
        });
        parts.collect()
    }

    /// Blocks of consecutive rows, `rows_max` at most, that cover the rows of `pools` and no others. Rows ascend.
    pub fn blocks(pools: &[Self], rows_max: usize) -> Vec<Range<usize>> {
        let mut blocks: Vec<Range<usize>> = Vec::new();
        for PooledRows { rows, .. } in pools {
            let mut start = rows.start;
            if let Some(last) = blocks.last_mut().filter(|last| last.end == start) {
                start = rows.end.min(last.start + rows_max);
                last.end = start;
            }
            let whole = (start..rows.end).step_by(rows_max);
            blocks.extend(whole.map(|start| start..rows.end.min(start + rows_max)));
        }
        blocks
    }
}

/// Pools rows of `logits` `[rows, columns]` into `pooled` `[any number of rows, columns]`, in plain Burn. NaN and
/// infinity stay.
pub fn pool_logits<B: EncoderBackend>(
    logits: &Tensor<B, 2>,
    pools: &[PooledRows],
    mut pooled: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let columns = logits.dims()[1];
    for PooledRows { rows, to, pooling } in pools {
        let logits = logits.clone().slice([rows.clone(), 0..columns]);
        // As `relu`, which may replace NaN.
        let positive = logits.replace_lower(0.0, 0.0);
        let place = [*to..*to + 1, 0..columns];
        let earlier = pooled.clone().slice(place.clone());
        let value = match pooling {
            // The maximum may lose NaN, and the sum of products with 0 is NaN for NaN and infinity, else 0.
            Pooling::Max => {
                positive.clone().max_dim(0).max_pair(earlier.clone()) + (positive.sum_dim(0) + earlier) * 0.0
            }
            Pooling::Sum => positive.log1p().sum_dim(0) + earlier,
        };
        pooled = pooled.slice_assign(place, value);
    }
    pooled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(bounds: &[(usize, usize)]) -> Vec<PooledRows> {
        let pools = bounds.iter().enumerate().map(|(to, &(start, end))| PooledRows {
            rows: start..end,
            to,
            pooling: Pooling::Max,
        });
        pools.collect()
    }

    #[test]
    fn blocks_cover_the_rows_of_pools_and_no_others() {
        type Bounds = [(usize, usize)];
        let cases: [(&Bounds, &Bounds); 4] = [
            (&[(0, 3)], &[(0, 3)]),
            (&[(0, 8)], &[(0, 4), (4, 8)]),
            (&[(2, 4), (4, 5), (5, 11)], &[(2, 6), (6, 10), (10, 11)]),
            (
                &[(0, 3), (7, 9), (9, 20)],
                &[(0, 3), (7, 11), (11, 15), (15, 19), (19, 20)],
            ),
        ];
        for (rows, expected) in cases {
            let blocks = PooledRows::blocks(&pools(rows), 4);
            let bounds: Vec<_> = blocks.into_iter().map(|block| (block.start, block.end)).collect();
            assert_eq!(bounds, expected, "{rows:?}");
        }
    }

    #[test]
    fn parts_of_pools_are_counted_from_the_first_row() {
        let parts = PooledRows::within(&pools(&[(0, 3), (3, 9), (12, 14)]), &(2..8), 1);
        let parts: Vec<_> = parts.into_iter().map(|part| (part.rows, part.to)).collect();
        assert_eq!(parts, [(1..2, 0), (2..7, 1)]);
    }
}
