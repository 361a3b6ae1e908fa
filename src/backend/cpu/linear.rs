//! Dense layers in the packed layout of the kernels.

use cloze_kernels::Linear;

use super::compute::with_context;
use super::precision::kernel_precision;
use super::tensors::{owned, slice, tensor, values};
use super::{Cpu, buffers};
use crate::backend::{
    Activation, ForwardInputs, LinearOp, PooledRows, Pooling, Precision, Tensor, UnsupportedPrecision,
};

/// Rows of a weight that are unpacked at once.
const ROWS_AT_ONCE: usize = 16;

/// A dense layer in the packed layout of the kernels.
pub struct CpuLinear(pub(super) Linear);

impl LinearOp<Cpu> for CpuLinear {
    fn prepare(
        weight: Tensor<Cpu, 2>,
        bias: Tensor<Cpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        let precision = kernel_precision(precision)?;
        let inputs = weight.dims()[1];
        let (weight, bias) = (values(weight), values(bias));
        Ok(Self(with_context(|context| {
            Linear::new(context.isa, slice(&weight), slice(&bias), inputs, precision)
        })))
    }

    fn forward(&self, x: Tensor<Cpu, 2>, activation: Option<Activation>) -> Tensor<Cpu, 2> {
        let rows = x.dims()[0];
        let x = values(x);
        let mut y = buffers::take(rows * self.0.outputs());
        let kernel = activation.and_then(kernel_activation);
        with_context(|context| self.0.apply(context, slice(&x), rows, kernel, &mut y));
        buffers::give_back(x);
        let y = tensor(y, rows, self.0.outputs());
        match activation {
            Some(activation @ Activation::Rare(_)) => activation.apply(y),
            _ => y,
        }
    }

    fn forward_pooled(&self, x: Tensor<Cpu, 2>, pools: &[PooledRows], pooled: Tensor<Cpu, 2>) -> Tensor<Cpu, 2> {
        let pools = pools.iter().map(|pool| cloze_kernels::PooledRows {
            rows: pool.rows.clone(),
            to: pool.to,
            pooling: match pool.pooling {
                Pooling::Max => cloze_kernels::Pooling::Max,
                Pooling::Sum => cloze_kernels::Pooling::SumLog1p,
            },
        });
        let pools: Vec<_> = pools.collect();
        let [rows, columns] = pooled.dims();
        let (x, mut pooled) = (values(x), owned(values(pooled)));
        with_context(|context| self.0.apply_pooled(context, slice(&x), &pools, &mut pooled));
        buffers::give_back(x);
        tensor(pooled, rows, columns)
    }

    fn embedding_lookup(&self, inputs: &ForwardInputs) -> Tensor<Cpu, 2> {
        let (ids, inputs) = (&inputs.token_ids, self.0.inputs());
        let mut rows = buffers::take(ids.len() * inputs);
        // A few at a time, because the kernel returns them in a new vector.
        for (values, ids) in rows.chunks_mut(ROWS_AT_ONCE * inputs).zip(ids.chunks(ROWS_AT_ONCE)) {
            values.copy_from_slice(&self.0.rows(ids));
        }
        tensor(rows, ids.len(), inputs)
    }
}

/// `None` for an activation without a kernel.
pub fn kernel_activation(activation: Activation) -> Option<cloze_kernels::Activation> {
    Some(match activation {
        Activation::Gelu => cloze_kernels::Activation::Gelu,
        Activation::GeluTanh => cloze_kernels::Activation::GeluTanh,
        Activation::Relu => cloze_kernels::Activation::Relu,
        Activation::Silu => cloze_kernels::Activation::Silu,
        Activation::Rare(_) => return None,
    })
}
