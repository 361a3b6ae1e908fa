//! Dense layers: one matrix product, then bias and activation while the rows are warm.

use rayon::prelude::*;

use super::dot::dot_products;
use super::math::bias_activation;
use super::product::{Matrix, product};
use crate::backend::Activation;

/// Up to so many rows plain dot products are faster than packing; measured with `cargo bench --bench forward`.
const DOT_ROWS_MAX: usize = 32;

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
        let mut y = match rows {
            0..=DOT_ROWS_MAX => transposed(&dot_products(x, &self.weight, self.inputs, rows), rows),
            _ => self.packed_product(x, rows),
        };
        let arch = pulp::Arch::new();
        y.par_chunks_mut(outputs)
            .for_each(|row| arch.dispatch(|| bias_activation(row, &self.bias, activation)));
        y
    }

    /// `x · weightᵀ` through `gemm`, which packs both.
    fn packed_product(&self, x: &[f32], rows: usize) -> Vec<f32> {
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
        y
    }

    /// The rows `ids` of the weight, one after the other.
    pub(super) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let row = |&id: &u32| &self.weight[id as usize * self.inputs..][..self.inputs];
        ids.iter().flat_map(row).copied().collect()
    }
}

/// `[columns, rows]` as `[rows, columns]`.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    let mut turned = vec![0.0; values.len()];
    for (row, turned) in turned.chunks_exact_mut(columns).enumerate() {
        for (column, value) in turned.iter_mut().enumerate() {
            *value = values[column * rows + row];
        }
    }
    turned
}
