//! Dense layers: a product with bias and activation in one launch.

use burn::backend::ExecutionError;
use burn::tensor::DType;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use cubecl::zspace::metadata::Metadata;

use super::inputs::GpuInputs;
use super::{check, primitive, tensor, weights_of};
use crate::backend::gpu::Gpu;
use crate::backend::gpu::kernels::norm::layer_norm;
use crate::backend::gpu::kernels::pooling::pool_logits;
use crate::backend::gpu::kernels::product::{Epilogue, product};
use crate::backend::gpu::kernels::rows::gather;
use crate::backend::gpu::kernels::{ALIGNMENT, Primitive, Rows, split_f16};
use crate::backend::{Activation, IndexList, LayerNorm, LinearOp, PooledRows, Precision, Tensor, UnsupportedPrecision};

/// The precisions of the kernels; f16 only where the adapter has it.
pub const PRECISIONS: &[Precision] = &[Precision::F32, Precision::F16];

/// The element type of a precision in memory.
pub fn dtype(precision: Precision) -> Result<DType, UnsupportedPrecision> {
    match precision {
        Precision::F32 => Ok(DType::F32),
        Precision::F16 => Ok(DType::F16),
        requested @ (Precision::Bf16 | Precision::Int8) => Err(UnsupportedPrecision {
            requested,
            supported: PRECISIONS,
        }),
    }
}

/// A dense layer as the checkpoint has it; bias and activation are part of the product's launch.
///
/// If the weight is f16, so is the other operand of its product: of [split](split_f16) hidden states the high part
/// alone, of selected rows of them and of f32 both parts. So the matrix units multiply, and f32 goes in and comes out
/// where the digits matter: at the readout rows, which are few, and in the first layer. Sums are f32.
pub struct GpuLinear {
    /// `[outputs, inputs]`, f32 or f16, or split `[outputs, 2 * inputs]`.
    pub weight: Tensor<Gpu, 2>,
    inputs: usize,
    /// `[outputs]`, f32.
    pub bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        let [_, inputs] = weight.dims();
        Ok(Self {
            weight: rounded(weight, dtype(precision)?),
            inputs,
            bias,
        })
    }

    fn prepare_high_precision(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        match dtype(precision)? {
            DType::F16 => {
                let [_, inputs] = weight.dims();
                Ok(Self {
                    weight: tensor(split_f16::split(primitive(weight))),
                    inputs,
                    bias,
                })
            }
            _ => Self::prepare(weight, bias, precision),
        }
    }

    fn join(first: &mut Self, second: &mut Self) -> Option<Self> {
        let [_, width] = first.weight.dims();
        if (second.weight.dims()[1], second.weight.dtype()) != (width, first.weight.dtype()) {
            return None;
        }
        let [first_outputs, second_outputs] = [&*first, &*second].map(|layer| layer.weight.dims()[0]);
        let row_bytes = width * first.weight.dtype().size();
        let [first_bytes, second_bytes] = [first_outputs, second_outputs].map(|rows| (rows * row_bytes) as u64);
        if !first_bytes.is_multiple_of(ALIGNMENT as u64) {
            return None;
        }
        let parts = [&*first, &*second].map(|layer| layer.weight.clone());
        let joined = primitive(Tensor::cat(parts.into(), 0));
        let part = |rows: usize, before: u64, after: u64| {
            let mut part = joined.clone();
            part.handle = part.handle.offset_start(before).offset_end(after);
            part.meta = Box::new(Metadata::new([rows, width], [width, 1]));
            tensor::<2>(part)
        };
        first.weight = part(first_outputs, 0, second_bytes);
        second.weight = part(second_outputs, first_bytes, 0);
        Some(Self {
            inputs: first.inputs,
            bias: Tensor::cat(vec![first.bias.clone(), second.bias.clone()], 0),
            weight: tensor(joined),
        })
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        if let Some(activation @ Activation::Rare(_)) = activation {
            let y = self.forward(x, None);
            let dtype = y.dtype();
            return rounded(activation.apply(rounded(y, DType::F32)), dtype);
        }
        let x = primitive(x);
        let dtype = x.dtype;
        tensor(self.finished(Rows::all(x), activation, dtype))
    }

    fn forward_pooled(&self, x: Tensor<Gpu, 2>, pools: &[PooledRows], pooled: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
        let logits = primitive(self.forward(x, None));
        let pool = |pooled, pool| pool_logits(logits.clone(), pool, pooled);
        tensor(pools.iter().fold(primitive(pooled), pool))
    }

    fn forward_normalized(&self, x: Tensor<Gpu, 2>, residual: Tensor<Gpu, 2>, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        self.normalized(x, Rows::all(primitive(residual)), norm)
    }

    fn embedding_lookup(&self, inputs: &GpuInputs) -> Tensor<Gpu, 2> {
        let token_ids = inputs.indices(IndexList::TokenIds).clone();
        tensor(gather(primitive(self.weight.clone()), self.inputs, token_ids))
    }

    fn check(&self) -> Result<(), ExecutionError> {
        check(&self.weight.clone().into_primitive())
    }
}

impl GpuLinear {
    /// `x · weightᵀ` in `dtype`. Of selected rows of split states both parts are multiplied.
    pub fn product(&self, x: Rows, dtype: DType) -> Primitive {
        let weight = self.weight.clone();
        let weight_is_split = weight.dims()[1] != self.inputs;
        if x.selected.is_some() || weight_is_split || x.values.dtype != weight.dtype() {
            return self.fused(x, None, dtype);
        }
        // Burn's own product, which the feature `autotune` times.
        let x = match x.values.meta.shape()[1] == self.inputs {
            true => x.values,
            false => split_f16::high(x.values),
        };
        let product = matmul(
            x,
            weight.transpose().into_primitive(),
            None,
            MatmulStrategy::default(),
            dtype,
        );
        into_contiguous(product.expect("the sizes fit together"))
    }

    /// `activation(x · weightᵀ + bias)` in `dtype`; the activation is not a rare one.
    pub fn finished(&self, x: Rows, activation: Option<Activation>, dtype: DType) -> Primitive {
        let bias = primitive(self.bias.clone());
        self.fused(x, Some(Epilogue { bias, activation }), dtype)
    }

    /// [`LinearOp::forward_normalized`] with rows of the residual.
    pub fn normalized(&self, x: Tensor<Gpu, 2>, residual: Rows, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        let is_split = x.dtype == DType::F16;
        let product = self.product(Rows::all(x), DType::F32);
        tensor(layer_norm(
            Rows::all(product),
            Some(bias),
            Some(residual),
            weights_of(norm),
            is_split,
        ))
    }

    fn fused(&self, x: Rows, epilogue: Option<Epilogue>, dtype: DType) -> Primitive {
        let is_exact = x.selected.is_some();
        product(
            x,
            primitive(self.weight.clone()),
            self.inputs,
            is_exact,
            epilogue,
            dtype,
        )
    }
}

/// `x` in another element type.
pub fn rounded(x: Tensor<Gpu, 2>, dtype: DType) -> Tensor<Gpu, 2> {
    tensor(cast(primitive(x), dtype))
}
