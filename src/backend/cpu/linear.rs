//! Dense layers: one matrix product, then bias and activation while the rows are warm.

use rayon::prelude::*;

use super::math::bias_activation;
use super::product::{Matrix, product};
use crate::backend::Activation;

/// A dense layer's weight and bias, as the checkpoint has them.
pub struct CpuLinear {
    /// `[outputs, inputs]`, row-major.
    weight: Vec<f32>,
    /// `[outputs]`.
    bias: Vec<f32>,
    inputs: usize,
}

impl CpuLinear {
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        assert_eq!((weight.len(), bias.len()), (outputs * inputs, outputs));
        Self { weight, bias, inputs }
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// `activation(x · weightᵀ + bias)`: `x` is `[rows, inputs]`, the result `[rows, outputs]`.
    pub(super) fn apply(&self, x: &[f32], rows: usize, activation: Option<Activation>) -> Vec<f32> {
        let outputs = self.outputs();
        let mut y = vec![0.0; rows * outputs];
        product(
            Matrix::new(x, rows, self.inputs, self.inputs),
            Matrix::new(&self.weight, outputs, self.inputs, self.inputs).transposed(),
            1.0,
            &mut y,
            outputs,
            rayon::current_num_threads(),
        );
        let arch = pulp::Arch::new();
        y.par_chunks_mut(outputs)
            .for_each(|row| arch.dispatch(|| bias_activation(row, &self.bias, activation)));
        y
    }

    /// The rows `ids` of the weight, one after the other.
    pub(super) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let row = |&id: &u32| &self.weight[id as usize * self.inputs..][..self.inputs];
        ids.iter().flat_map(row).copied().collect()
    }
}
