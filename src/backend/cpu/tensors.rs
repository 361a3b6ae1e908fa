//! Tensors of ndarray as slices and vectors.

use burn_ndarray::{NdArrayTensor, SharedArray};
use ndarray::{ArcArray, IxDyn};

use super::Cpu;
use crate::backend::Tensor;

/// The values of a tensor in row-major order, without a copy if it has that order already.
pub fn values<const D: usize>(tensor: Tensor<Cpu, D>) -> SharedArray<f32> {
    match tensor.into_primitive() {
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

pub fn slice(array: &SharedArray<f32>) -> &[f32] {
    array.as_slice().expect("values() gives row-major arrays")
}

/// The values as a vector; copies only if another tensor shares them.
pub fn owned(array: SharedArray<f32>) -> Vec<f32> {
    let (values, offset) = array.into_owned().into_raw_vec_and_offset();
    debug_assert!(offset.is_none_or(|offset| offset == 0));
    values
}

pub fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> Tensor<Cpu, 2> {
    let array = ArcArray::from_shape_vec(IxDyn(&[rows, columns]), values).expect("as many values as the shape says");
    Tensor::from_primitive(array.into())
}
