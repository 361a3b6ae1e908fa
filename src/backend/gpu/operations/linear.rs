//! Dense layers: a product, then bias and activation in one launch.

use burn::backend::ExecutionError;
use burn::tensor::DType;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};

use super::inputs::GpuInputs;
use super::{check, primitive, tensor, weights_of};
use crate::backend::gpu::Gpu;
use crate::backend::gpu::kernels::bias::{bias_activation, bias_activation_of_split};
use crate::backend::gpu::kernels::norm::layer_norm;
use crate::backend::gpu::kernels::pooling::pool_logits;
use crate::backend::gpu::kernels::rows::gather;
use crate::backend::gpu::kernels::{Primitive, split_f16};
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

/// A dense layer as the checkpoint has it; bias and activation are one launch after the product.
///
/// If the weight is f16, so is the other operand of its product: of [split](split_f16) hidden states the high part
/// alone, of f32 both parts, one after the other. So the matrix units multiply, and f32 goes in and comes out where the
/// digits matter: at the readout rows, which are few, and in the first layer. Sums are f32.
pub struct GpuLinear {
    /// `[outputs, inputs]`, f32 or f16.
    pub weight: Tensor<Gpu, 2>,
    /// The low part of an f16 weight, if it is kept.
    low: Option<Tensor<Gpu, 2>>,
    /// `[outputs]`, f32.
    pub bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        Ok(Self {
            weight: rounded(weight, dtype(precision)?),
            low: None,
            bias,
        })
    }

    fn prepare_high_precision(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        let dtype = dtype(precision)?;
        let high = rounded(weight.clone(), dtype);
        let low = (dtype == DType::F16).then(|| rounded(weight - rounded(high.clone(), DType::F32), dtype));
        Ok(Self {
            weight: high,
            low,
            bias,
        })
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        if let Some(activation @ Activation::Rare(_)) = activation {
            let y = self.forward(x, None);
            let dtype = y.dtype();
            return rounded(activation.apply(rounded(y, DType::F32)), dtype);
        }
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        if !self.splits(&x) {
            let dtype = x.dtype;
            return tensor(bias_activation(self.product(x, dtype), bias, activation));
        }
        let x = split_f16::split(x);
        let rest = self
            .low
            .as_ref()
            .map(|low| multiply(split_f16::high(x.clone()), low, DType::F32));
        tensor(bias_activation_of_split(
            self.product_of_split(x),
            rest,
            bias,
            activation,
        ))
    }

    fn forward_pooled(&self, x: Tensor<Gpu, 2>, pools: &[PooledRows], pooled: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
        let logits = primitive(self.forward(x, None));
        let pool = |pooled, pool| pool_logits(logits.clone(), pool, pooled);
        tensor(pools.iter().fold(primitive(pooled), pool))
    }

    fn forward_normalized(&self, x: Tensor<Gpu, 2>, residual: Tensor<Gpu, 2>, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        let is_split = x.dtype == DType::F16;
        let product = self.product(x, DType::F32);
        tensor(layer_norm(
            product,
            Some(bias),
            Some(primitive(residual)),
            weights_of(norm),
            is_split,
        ))
    }

    fn embedding_lookup(&self, inputs: &GpuInputs) -> Tensor<Gpu, 2> {
        let [_, columns] = self.weight.dims();
        let low = self.low.clone().map(primitive);
        let token_ids = inputs.indices(IndexList::TokenIds).clone();
        tensor(gather(primitive(self.weight.clone()), low, columns, token_ids))
    }

    fn check(&self) -> Result<(), ExecutionError> {
        let parts = std::iter::once(&self.weight).chain(&self.low);
        parts
            .into_iter()
            .try_for_each(|part| check(&part.clone().into_primitive()))
    }
}

impl GpuLinear {
    /// True if `x` has more digits than the weight, so that it is split.
    fn splits(&self, x: &Primitive) -> bool {
        (x.dtype, self.weight.dtype()) == (DType::F32, DType::F16)
    }

    /// `x · weightᵀ` in `dtype`, or [in two parts](Self::product_of_split) in f32 if `x` has more digits than the
    /// weight.
    pub fn product(&self, x: Primitive, dtype: DType) -> Primitive {
        let [_, inputs] = self.weight.dims();
        if self.splits(&x) {
            return self.product_of_split(split_f16::split(x));
        }
        let is_split = x.dtype == DType::F16 && x.meta.shape()[1] == 2 * inputs;
        multiply(if is_split { split_f16::high(x) } else { x }, &self.weight, dtype)
    }

    /// `x · weightᵀ` of split `x`: `[rows, 2 * outputs]` in f32, whose two parts are not added yet.
    fn product_of_split(&self, x: Primitive) -> Primitive {
        split_f16::side_by_side(multiply(split_f16::stacked(x), &self.weight, DType::F32))
    }
}

/// `x · weightᵀ` in `dtype`; both operands have one type.
fn multiply(x: Primitive, weight: &Tensor<Gpu, 2>, dtype: DType) -> Primitive {
    let weight = weight.clone().transpose().into_primitive();
    let product = matmul(x, weight, None, MatmulStrategy::default(), dtype);
    into_contiguous(product.expect("the sizes fit together"))
}

/// `x` in another element type.
pub fn rounded(x: Tensor<Gpu, 2>, dtype: DType) -> Tensor<Gpu, 2> {
    tensor(cast(primitive(x), dtype))
}
