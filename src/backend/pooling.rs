//! Pooling of logits over the rows of a sequence, as SPLADE does.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};

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
    /// The weight of a pooled value: for [`Max`](Self::Max) the logits themselves are pooled.
    pub fn weight(self, pooled: f32) -> f32 {
        match self {
            Self::Max => pooled.max(0.0).ln_1p(),
            Self::Sum => pooled,
        }
    }
}

/// The default body of [`EncoderBackend::pool_logits`](super::EncoderBackend::pool_logits).
pub fn pool_logits<B: Backend>(
    logits: &Tensor<B, 2>,
    rows: Range<usize>,
    pooling: Pooling,
    pooled: Option<Tensor<B, 1>>,
) -> Tensor<B, 1> {
    let columns = logits.dims()[1];
    let logits = logits.clone().slice([rows, 0..columns]);
    match (pooling, pooled) {
        (Pooling::Max, None) => logits.max_dim(0).reshape([columns]),
        (Pooling::Max, Some(pooled)) => logits.max_dim(0).reshape([columns]).max_pair(pooled),
        (Pooling::Sum, None) => activation::relu(logits).log1p().sum_dim(0).reshape([columns]),
        (Pooling::Sum, Some(pooled)) => activation::relu(logits).log1p().sum_dim(0).reshape([columns]) + pooled,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::backend::EncoderBackend;
    use crate::backend::cpu::Cpu;

    type Pool = fn(&Tensor<Cpu, 2>, Range<usize>, Pooling, Option<Tensor<Cpu, 1>>) -> Tensor<Cpu, 1>;

    #[test]
    fn the_kernels_pool_as_the_default_body_does() {
        for columns in [1, 33, 5000] {
            let value = |at: usize| ((at * 7919) % 2003) as f32 / 200.0 - 6.0;
            let logits: Vec<f32> = (0..7 * columns).map(value).collect();
            let logits = Tensor::<Cpu, 2>::from_data(TensorData::new(logits, [7, columns]), &Default::default());
            for pooling in [Pooling::Max, Pooling::Sum] {
                let weights = |pool: Pool| {
                    // In two chunks, as a long sequence is.
                    let first = pool(&logits, 1..3, pooling, None);
                    let both = pool(&logits, 3..7, pooling, Some(first));
                    let values = both.into_data().into_vec::<f32>().unwrap();
                    values
                        .into_iter()
                        .map(|value| pooling.weight(value))
                        .collect::<Vec<f32>>()
                };
                let (kernel, default) = (weights(Cpu::pool_logits), weights(pool_logits::<Cpu>));
                for (column, (kernel, default)) in kernel.iter().zip(&default).enumerate() {
                    assert!(
                        (kernel - default).abs() < 1e-5,
                        "{pooling:?} {columns} {column}: {kernel} {default}"
                    );
                    let rows = (1..7).map(|row| value(row * columns + column).max(0.0).ln_1p());
                    let expected = match pooling {
                        Pooling::Max => rows.fold(0.0, f32::max),
                        Pooling::Sum => rows.sum(),
                    };
                    assert!(
                        (kernel - expected).abs() < 1e-4,
                        "{pooling:?} {columns} {column}: {kernel}"
                    );
                }
            }
        }
    }
}
