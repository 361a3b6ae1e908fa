//! Float tensors with backend and rank as types: a thin form of Burn's operations.
//!
//! Burn's own high-level tensor picks its backend at run time. Here the backend is a type parameter, so that a backend
//! can [override](EncoderBackend) an operation. Operations on two tensors broadcast dimensions of size 1, and need one
//! element type.

use std::ops::{Add, Div, Mul, Neg, Range, Sub};

use burn::backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps, TransactionPrimitive};
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{BoolDType, ExecutionError, FloatDType, TensorMetadata, TensorPrimitive};
use burn::backend::{get_or_init_device_settings, read_sync};
use burn::tensor::{DType, Shape, Slice, TensorData};

use super::{Device, EncoderBackend};

/// A float tensor of rank `D`. Its element type is that of its values; see [`EncoderBackend::ELEMENT`].
#[derive(Clone, Debug)]
pub struct Tensor<B: EncoderBackend, const D: usize>(FloatTensor<B::Burn>);

type Burn<B> = <B as EncoderBackend>::Burn;

/// Making tensors, and reading them.
impl<B: EncoderBackend, const D: usize> Tensor<B, D> {
    /// The values of `data`, in the element type [`EncoderBackend::ELEMENT`].
    ///
    /// # Panics
    /// If `data` is of another rank.
    pub fn from_data(data: impl Into<TensorData>, device: &Device<B>) -> Self {
        let data = data.into().convert_dtype(B::ELEMENT.into());
        assert_eq!(data.rank(), D, "a tensor of rank {D}");
        Self(Burn::<B>::float_from_data(data, device))
    }

    /// Zeros, in the element type [`EncoderBackend::ELEMENT`].
    pub fn zeros(shape: [usize; D], device: &Device<B>) -> Self {
        Self(Burn::<B>::float_zeros(shape.into(), device, B::ELEMENT))
    }

    /// Zeros in place of the values.
    pub fn zeros_like(&self) -> Self {
        Self(Burn::<B>::float_zeros(
            self.0.shape(),
            &self.device(),
            self.float_dtype(),
        ))
    }

    /// A tensor of Burn of rank `D`.
    pub fn from_primitive(primitive: FloatTensor<B::Burn>) -> Self {
        debug_assert_eq!(primitive.rank(), D);
        Self(primitive)
    }

    /// The tensor as Burn has it.
    pub fn into_primitive(self) -> FloatTensor<B::Burn> {
        self.0
    }

    pub fn dims(&self) -> [usize; D] {
        self.0.shape().dims()
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub fn device(&self) -> Device<B> {
        self.0.device()
    }

    /// Reads the values from the device, in row-major order and as f32.
    ///
    /// # Errors
    /// A fault of the device, or of a computation that the values depend on.
    pub fn into_vec(self) -> Result<Vec<f32>, ExecutionError> {
        let data = read_sync(read(vec![self]))?.remove(0);
        data.try_into_vec_as().map_err(|error| ExecutionError::WithContext {
            reason: error.to_string(),
        })
    }

    fn bool_dtype(&self) -> BoolDType {
        get_or_init_device_settings::<B::Burn>(&self.device()).bool_dtype
    }

    fn float_dtype(&self) -> FloatDType {
        self.dtype().into()
    }

    fn indices(&self, indices: &[u32]) -> IntTensor<B::Burn> {
        let device = self.device();
        let dtype = get_or_init_device_settings::<B::Burn>(&device).int_dtype;
        let indices: Vec<i64> = indices.iter().map(|&index| i64::from(index)).collect();
        let count = indices.len();
        Burn::<B>::int_from_data(TensorData::new(indices, [count]).convert_dtype(dtype.into()), &device)
    }
}

/// Reads all `tensors` at once. The first poll queues the read, so that it comes before any computation that is
/// submitted later.
pub async fn read<B: EncoderBackend, const D: usize>(
    tensors: Vec<Tensor<B, D>>,
) -> Result<Vec<TensorData>, ExecutionError> {
    let mut all = TransactionPrimitive::<B::Burn>::default();
    for tensor in tensors {
        all.register_float(TensorPrimitive::Float(tensor.0));
    }
    all.execute_async().await
}

/// Shapes and parts.
impl<B: EncoderBackend, const D: usize> Tensor<B, D> {
    pub fn reshape<const E: usize>(self, shape: [usize; E]) -> Tensor<B, E> {
        Tensor(Burn::<B>::float_reshape(self.0, shape.into()))
    }

    /// The values with dimensions of size 1 before the others.
    pub fn unsqueeze<const E: usize>(self) -> Tensor<B, E> {
        let mut shape = [1; E];
        shape[E - D..].copy_from_slice(&self.dims());
        self.reshape(shape)
    }

    /// The values with a dimension of size 1 at `dim`.
    pub fn unsqueeze_dim<const E: usize>(self, dim: usize) -> Tensor<B, E> {
        let mut shape = self.dims().to_vec();
        shape.insert(dim, 1);
        Tensor(Burn::<B>::float_reshape(self.0, Shape::from(shape)))
    }

    /// The values in one dimension.
    pub fn flatten(self) -> Tensor<B, 1> {
        let numbers = self.dims().iter().product();
        self.reshape([numbers])
    }

    pub fn swap_dims(self, first: usize, second: usize) -> Self {
        Self(Burn::<B>::float_swap_dims(self.0, first, second))
    }

    /// Swaps the last two dimensions.
    pub fn transpose(self) -> Self {
        self.swap_dims(D - 2, D - 1)
    }

    pub fn permute(self, axes: [usize; D]) -> Self {
        Self(Burn::<B>::float_permute(self.0, &axes))
    }

    /// The values at these indices of each dimension.
    pub fn slice(self, ranges: [Range<usize>; D]) -> Self {
        Self(Burn::<B>::float_slice(self.0, &ranges.map(Slice::from)))
    }

    /// The tensor with `values` at these indices of each dimension.
    pub fn slice_assign(self, ranges: [Range<usize>; D], values: Self) -> Self {
        Self(Burn::<B>::float_slice_assign(
            self.0,
            &ranges.map(Slice::from),
            values.0,
        ))
    }

    /// The entries of dimension `dim` that `indices` names.
    pub fn select(self, dim: usize, indices: &[u32]) -> Self {
        let indices = self.indices(indices);
        Self(Burn::<B>::float_select(self.0, dim, indices))
    }

    /// The tensors one after the other along `dim`.
    pub fn cat(tensors: Vec<Self>, dim: usize) -> Self {
        let tensors = tensors.into_iter().map(Self::into_primitive).collect();
        Self(Burn::<B>::float_cat(tensors, dim))
    }

    /// The tensors one after the other along a new dimension `dim`.
    pub fn stack<const E: usize>(tensors: Vec<Self>, dim: usize) -> Tensor<B, E> {
        let tensors = tensors.into_iter().map(|tensor| tensor.unsqueeze_dim(dim));
        Tensor::cat(tensors.collect(), dim)
    }
}

/// Values one by one.
impl<B: EncoderBackend, const D: usize> Tensor<B, D> {
    pub fn exp(self) -> Self {
        Self(Burn::<B>::float_exp(self.0))
    }

    pub fn log1p(self) -> Self {
        Self(Burn::<B>::float_log1p(self.0))
    }

    pub fn sqrt(self) -> Self {
        Self(Burn::<B>::float_sqrt(self.0))
    }

    pub fn erf(self) -> Self {
        Self(Burn::<B>::float_erf(self.0))
    }

    pub fn tanh(self) -> Self {
        Self(Burn::<B>::float_tanh(self.0))
    }

    pub fn abs(self) -> Self {
        Self(Burn::<B>::float_abs(self.0))
    }

    pub fn clamp(self, min: f64, max: f64) -> Self {
        Self(Burn::<B>::float_clamp(self.0, min.into(), max.into()))
    }

    pub fn clamp_max(self, max: f64) -> Self {
        Self(Burn::<B>::float_clamp_max(self.0, max.into()))
    }

    pub fn relu(self) -> Self {
        Self(Burn::<B>::relu(self.0))
    }

    /// GELU with the error function.
    pub fn gelu(self) -> Self {
        Self(Burn::<B>::gelu(self.0))
    }

    /// `1 / (1 + exp(-x))`. Burn's own form rounds to f32.
    pub fn sigmoid(self) -> Self {
        Self(Burn::<B>::float_recip(((-self).exp() + 1.0).0))
    }

    /// The larger of each pair of values.
    pub fn max_pair(self, other: Self) -> Self {
        let is_lower = Burn::<B>::float_lower(self.0.clone(), other.0.clone(), self.bool_dtype());
        Self(Burn::<B>::float_mask_where(self.0, is_lower, other.0))
    }

    /// `value` in place of the values below `bound`; NaN stays.
    pub fn replace_lower(self, bound: f64, value: f64) -> Self {
        let is_lower = Burn::<B>::float_lower_elem(self.0.clone(), bound.into(), self.bool_dtype());
        Self(Burn::<B>::float_mask_fill(self.0, is_lower, value.into()))
    }

    /// 1 for each value that is NaN, else 0.
    pub fn is_nan(self) -> Self {
        let (dtype, bool_dtype) = (self.float_dtype(), self.bool_dtype());
        Self::of_bool(Burn::<B>::float_is_nan(self.0, bool_dtype), dtype)
    }

    /// 1 for each value that is `value`, else 0.
    pub fn is_equal(self, value: f64) -> Self {
        let (dtype, bool_dtype) = (self.float_dtype(), self.bool_dtype());
        Self::of_bool(Burn::<B>::float_equal_elem(self.0, value.into(), bool_dtype), dtype)
    }

    fn of_bool(values: BoolTensor<B::Burn>, dtype: FloatDType) -> Self {
        Self(Burn::<B>::bool_into_float(values, dtype))
    }
}

/// Products, and reductions of a dimension, which keep it with size 1.
impl<B: EncoderBackend, const D: usize> Tensor<B, D> {
    pub fn matmul(self, other: Self) -> Self {
        Self(Burn::<B>::float_matmul(self.0, other.0))
    }

    pub fn sum_dim(self, dim: usize) -> Self {
        Self(Burn::<B>::float_sum_dim(self.0, dim))
    }

    pub fn mean_dim(self, dim: usize) -> Self {
        Self(Burn::<B>::float_mean_dim(self.0, dim))
    }

    pub fn max_dim(self, dim: usize) -> Self {
        Self(Burn::<B>::float_max_dim(self.0, dim))
    }

    pub fn softmax(self, dim: usize) -> Self {
        Self(Burn::<B>::softmax(self.0, dim))
    }

    /// The `k` largest values of `dim`, largest first, and their indices as floats.
    pub fn topk_with_indices(self, k: usize, dim: usize) -> (Self, Self) {
        let dtype = self.float_dtype();
        let int_dtype = get_or_init_device_settings::<B::Burn>(&self.device()).int_dtype;
        let (values, indices) = Burn::<B>::float_topk_with_indices(self.0, dim, k, int_dtype);
        (Self(values), Self(Burn::<B>::int_into_float(indices, dtype)))
    }
}

impl<B: EncoderBackend, const D: usize> Add for Tensor<B, D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(Burn::<B>::float_add(self.0, other.0))
    }
}

impl<B: EncoderBackend, const D: usize> Sub for Tensor<B, D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(Burn::<B>::float_sub(self.0, other.0))
    }
}

impl<B: EncoderBackend, const D: usize> Mul for Tensor<B, D> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self(Burn::<B>::float_mul(self.0, other.0))
    }
}

impl<B: EncoderBackend, const D: usize> Div for Tensor<B, D> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        Self(Burn::<B>::float_div(self.0, other.0))
    }
}

impl<B: EncoderBackend, const D: usize> Neg for Tensor<B, D> {
    type Output = Self;

    fn neg(self) -> Self {
        Self(Burn::<B>::float_neg(self.0))
    }
}

impl<B: EncoderBackend, const D: usize> Add<f64> for Tensor<B, D> {
    type Output = Self;

    fn add(self, number: f64) -> Self {
        Self(Burn::<B>::float_add_scalar(self.0, number.into()))
    }
}

impl<B: EncoderBackend, const D: usize> Sub<f64> for Tensor<B, D> {
    type Output = Self;

    fn sub(self, number: f64) -> Self {
        Self(Burn::<B>::float_sub_scalar(self.0, number.into()))
    }
}

impl<B: EncoderBackend, const D: usize> Mul<f64> for Tensor<B, D> {
    type Output = Self;

    fn mul(self, number: f64) -> Self {
        Self(Burn::<B>::float_mul_scalar(self.0, number.into()))
    }
}

impl<B: EncoderBackend, const D: usize> Div<f64> for Tensor<B, D> {
    type Output = Self;

    fn div(self, number: f64) -> Self {
        Self(Burn::<B>::float_div_scalar(self.0, number.into()))
    }
}
