//! Layer normalization.

use burn_ndarray::SharedArray;
use cloze_kernels::{Context, Norm};

use super::tensors::{owned, slice, tensor, values};
use super::{Cpu, buffers};
use crate::backend::{LayerNorm, NormKind, Tensor};

/// A layer normalization's parameters as slices.
pub struct Parameters {
    kind: cloze_kernels::NormKind,
    gamma: SharedArray<f32>,
    beta: SharedArray<f32>,
    eps: f32,
}

impl Parameters {
    pub fn of(norm: &LayerNorm<Cpu>) -> Self {
        Self {
            kind: match norm.kind {
                NormKind::Layer => cloze_kernels::NormKind::Layer,
                NormKind::RootMeanSquare => cloze_kernels::NormKind::RootMeanSquare,
            },
            gamma: values(norm.gamma.clone()),
            beta: values(norm.beta.clone()),
            eps: norm.eps as f32,
        }
    }

    pub fn norm(&self) -> Norm<'_> {
        Norm {
            kind: self.kind,
            gamma: slice(&self.gamma),
            beta: slice(&self.beta),
            eps: self.eps,
        }
    }
}

pub fn normalize(
    context: Context<'_>,
    x: Tensor<Cpu, 2>,
    residual: Option<Tensor<Cpu, 2>>,
    norm: &LayerNorm<Cpu>,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = x.dims();
    let residual = residual.map(values);
    let parameters = Parameters::of(norm);
    let mut x = owned(values(x));
    cloze_kernels::layer_norm(context, &mut x, residual.as_ref().map(slice), parameters.norm());
    residual.into_iter().for_each(buffers::give_back);
    tensor(x, rows, hidden)
}
