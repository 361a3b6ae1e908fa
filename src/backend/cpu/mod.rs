//! ndarray, with BERT's operations as kernels over raw slices.
//!
//! Plain Burn on ndarray copies whole weights on reshape and computes `erf` one value at a time; these
//! kernels do not. Each is compared with [`plain`](super::plain) over odd sizes in `tests`.

mod attention;
mod dot;
mod features;
mod linear;
mod math;
mod norm;
mod product;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, TensorPrimitive};
use burn_ndarray::{NdArray, NdArrayTensor, SharedArray};
use ndarray::{ArcArray, IxDyn};

use super::{BertBackend, LayerNorm, LinearOp, Spans};

pub use features::cpu_features;
pub use linear::CpuLinear;

/// The backend of `--backend cpu`.
pub type Cpu = NdArray<f32>;

/// Computes with `threads` threads from now on. The pool is shared by the whole process, so the first call
/// decides; a later one with the same number is fine.
///
/// # Errors
/// When the threads cannot be started, or run already in another number.
pub fn use_threads(threads: usize) -> Result<(), String> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    match builder.thread_name(|i| format!("cloze-cpu-{i}")).build_global() {
        Err(_) if rayon::current_num_threads() == threads => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(()),
    }
}

impl BertBackend for Cpu {
    type Linear = CpuLinear;

    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        spans: &Spans,
        heads: usize,
    ) -> Tensor<Self, 2> {
        let [rows, hidden] = query.dims();
        let (query, key_value) = (values(query), values(key_value));
        let context = attention::attention(slice(&query), slice(&key_value), hidden, spans, heads);
        tensor(context, rows, hidden)
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        let [rows, hidden] = x.dims();
        let residual = residual.map(values);
        let (gamma, beta) = (values(norm.gamma.clone()), values(norm.beta.clone()));
        let mut x = owned(values(x));
        norm::layer_norm(
            &mut x,
            residual.as_ref().map(slice),
            slice(&gamma),
            slice(&beta),
            norm.eps as f32,
        );
        tensor(x, rows, hidden)
    }
}

impl LinearOp<Cpu> for CpuLinear {
    fn prepare(weight: Tensor<Cpu, 2>, bias: Tensor<Cpu, 1>) -> Self {
        let [outputs, inputs] = weight.dims();
        CpuLinear::new(owned(values(weight)), owned(values(bias)), outputs, inputs)
    }

    fn forward(&self, x: Tensor<Cpu, 2>, activation: Option<super::Activation>) -> Tensor<Cpu, 2> {
        let rows = x.dims()[0];
        let y = self.apply(slice(&values(x)), rows, activation);
        tensor(y, rows, self.outputs())
    }

    fn weight_rows(&self, ids: &[u32]) -> Tensor<Cpu, 2> {
        tensor(self.rows(ids), ids.len(), self.inputs())
    }
}

/// The values of a tensor in row-major order, without a copy where it has that order already.
fn values<const D: usize>(tensor: Tensor<Cpu, D>) -> SharedArray<f32> {
    match tensor.into_primitive().tensor() {
        NdArrayTensor::F32(storage) => {
            let array = storage.into_shared();
            match array.is_standard_layout() {
                true => array,
                false => array.as_standard_layout().into_shared(),
            }
        }
        other => unreachable!("an f32 backend made a tensor of another type: {other:?}"),
    }
}

fn slice(array: &SharedArray<f32>) -> &[f32] {
    array.as_slice().expect("values() gives row-major arrays")
}

/// The values as a vector of their own; copies only where somebody else still holds them.
fn owned(array: SharedArray<f32>) -> Vec<f32> {
    let (values, offset) = array.into_owned().into_raw_vec_and_offset();
    debug_assert!(offset.is_none_or(|offset| offset == 0));
    values
}

fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> Tensor<Cpu, 2> {
    let array = ArcArray::from_shape_vec(IxDyn(&[rows, columns]), values).expect("as many values as the shape says");
    Tensor::from_primitive(TensorPrimitive::Float(array.into()))
}
