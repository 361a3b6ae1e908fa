//! Where the weights come from, and how a missing or misshapen one is told.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::backend::{BertBackend, LayerNorm, LinearOp, Precision};

/// A checkpoint's tensors, asked for one at a time and by the name that `BertForMaskedLM` gives them.
///
/// Each call may read and convert anew: the model keeps what it needs and drops the rest at once.
pub trait WeightSource {
    /// The values of `name`, row-major, if the checkpoint has it in this shape.
    ///
    /// # Errors
    /// [`WeightError`] when it is missing, has another shape, or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError>;

    /// Whether the checkpoint has a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

/// Why a weight could not be had: one sentence that names the tensor.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WeightError(pub String);

/// Reads tensors under a prefix and puts them on a device.
pub(super) struct Weights<'a, B: Backend> {
    source: &'a mut dyn WeightSource,
    device: &'a B::Device,
    precision: Precision,
}

impl<'a, B: BertBackend> Weights<'a, B> {
    pub fn new(source: &'a mut dyn WeightSource, device: &'a B::Device, precision: Precision) -> Self {
        Self {
            source,
            device,
            precision,
        }
    }

    /// What dense layers are kept in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    pub fn vector(&mut self, name: &str, size: usize) -> Result<Tensor<B, 1>, WeightError> {
        let data = self.source.tensor(name, &[size])?;
        Ok(Tensor::from_data(TensorData::new(data, [size]), self.device))
    }

    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor<B, 2>, WeightError> {
        let data = self.source.tensor(name, &[rows, columns])?;
        Ok(Tensor::from_data(TensorData::new(data, [rows, columns]), self.device))
    }

    /// A dense layer whose parts are `name.weight` and `name.bias`.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<B::Linear, WeightError> {
        self.linear_in(self.precision, name, outputs, inputs)
    }

    /// A dense layer in a precision of its own.
    pub fn linear_in(
        &mut self,
        precision: Precision,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<B::Linear, WeightError> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        Ok(B::Linear::prepare(weight, bias, precision))
    }

    /// Dense layers over the same input, one below the other as a single one of `names.len() * outputs`.
    pub fn stacked_linear(&mut self, names: &[&str], outputs: usize, inputs: usize) -> Result<B::Linear, WeightError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.append(&mut self.source.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.append(&mut self.source.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        let rows = names.len() * outputs;
        Ok(B::Linear::prepare(
            Tensor::from_data(TensorData::new(weight, [rows, inputs]), self.device),
            Tensor::from_data(TensorData::new(bias, [rows]), self.device),
            self.precision,
        ))
    }

    pub fn layer_norm(&mut self, name: &str, size: usize, eps: f64) -> Result<LayerNorm<B>, WeightError> {
        Ok(LayerNorm {
            gamma: self.vector(&format!("{name}.weight"), size)?,
            beta: self.vector(&format!("{name}.bias"), size)?,
            eps,
        })
    }
}
