//! Reads parameters from a checkpoint and prepares them on a device.

use burn::tensor::{Tensor, TensorData};

use super::{Architecture, EncoderError, EncoderSpec, LayerModule, Parameter, Part, PrecisionPolicy};
use crate::backend::{EncoderBackend, LayerNorm, LinearOp, Precision};
use crate::checkpoint::{TensorError, TensorSource};

/// Loads the parameters of one architecture onto one device.
pub(super) struct WeightLoader<'a, B: EncoderBackend> {
    architecture: &'a Architecture,
    source: &'a mut dyn TensorSource,
    device: &'a B::Device,
    precision: PrecisionPolicy,
}

impl<'a, B: EncoderBackend> WeightLoader<'a, B> {
    pub fn new(
        architecture: &'a Architecture,
        source: &'a mut dyn TensorSource,
        device: &'a B::Device,
        precision: PrecisionPolicy,
    ) -> Self {
        Self {
            architecture,
            source,
            device,
            precision,
        }
    }

    pub fn spec(&self) -> &'a EncoderSpec {
        &self.architecture.spec
    }

    pub fn precision(&self) -> PrecisionPolicy {
        self.precision
    }

    pub fn vector(&mut self, parameter: Parameter) -> Result<Tensor<B, 1>, TensorError> {
        let values = self.architecture.read(parameter, self.source)?;
        let shape = [values.len()];
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// A matrix, `[rows, columns]`.
    pub fn matrix(&mut self, parameter: Parameter) -> Result<Tensor<B, 2>, TensorError> {
        let values = self.architecture.read(parameter, self.source)?;
        let shape = self.spec().shape(parameter);
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// The dense layer whose weight and bias `parts` names.
    pub fn dense(
        &mut self,
        parts: impl Fn(Part) -> Parameter,
        precision: Precision,
    ) -> Result<B::Linear, EncoderError> {
        let weight = self.matrix(parts(Part::Weight))?;
        let bias = self.vector(parts(Part::Bias))?;
        Ok(B::Linear::prepare(weight, bias, precision)?)
    }

    /// Key and value of a layer as one dense layer, `[2 * hidden, hidden]`, keys first.
    pub fn key_value(&mut self, layer: usize) -> Result<B::Linear, EncoderError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for module in [LayerModule::Key, LayerModule::Value] {
            let mut read = |part| {
                self.architecture
                    .read(Parameter::Layer(layer, module, part), self.source)
            };
            weight.append(&mut read(Part::Weight)?);
            bias.append(&mut read(Part::Bias)?);
        }
        let hidden = self.spec().hidden_size;
        Ok(B::Linear::prepare(
            Tensor::from_data(TensorData::new(weight, [2 * hidden, hidden]), self.device),
            Tensor::from_data(TensorData::new(bias, [2 * hidden]), self.device),
            self.precision.dense(),
        )?)
    }

    /// The layer normalization whose scale and shift `parts` names.
    pub fn layer_norm(&mut self, parts: impl Fn(Part) -> Parameter) -> Result<LayerNorm<B>, TensorError> {
        Ok(LayerNorm {
            gamma: self.vector(parts(Part::Weight))?,
            beta: self.vector(parts(Part::Bias))?,
            eps: self.spec().layer_norm_eps,
        })
    }
}
