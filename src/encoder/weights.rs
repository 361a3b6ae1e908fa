//! Reads parameters from a checkpoint and prepares them on a device.

use burn::tensor::{Tensor, TensorData};

use super::{Architecture, EncoderError, EncoderSpec, LayerModule, Parameter, Part, PrecisionPolicy, RotarySpec};
use crate::backend::{EncoderBackend, LayerNorm, LinearOp, Precision, RelativeBias, Rotary};
use crate::checkpoint::{TensorError, TensorSource};

/// Loads the parameters of one architecture onto one device.
pub(super) struct WeightLoader<'a, B: EncoderBackend> {
    architecture: &'a Architecture,
    source: &'a mut dyn TensorSource,
    device: &'a B::Device,
    precision: PrecisionPolicy,
    /// Rotations by their frequencies; layers share them.
    rotations: Vec<(RotarySpec, Rotary<B>)>,
    relative_bias: Option<RelativeBias<B>>,
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
            rotations: Vec::new(),
            relative_bias: None,
        }
    }

    pub fn spec(&self) -> &'a EncoderSpec {
        &self.architecture.spec
    }

    pub fn precision(&self) -> PrecisionPolicy {
        self.precision
    }

    /// The values of a parameter, zeros for a bias that the encoder lacks.
    fn values(&mut self, parameter: Parameter) -> Result<Vec<f32>, TensorError> {
        match self.spec().has(parameter) {
            true => self.architecture.read(parameter, self.source),
            false => Ok(vec![0.0; self.spec().elements(parameter)]),
        }
    }

    pub fn vector(&mut self, parameter: Parameter) -> Result<Tensor<B, 1>, TensorError> {
        let values = self.values(parameter)?;
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
            let mut read = |part| self.values(Parameter::Layer(layer, module, part));
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

    /// The rotation of a layer's queries and keys.
    pub fn rotary(&mut self, layer: usize) -> Option<Rotary<B>> {
        let spec = self.spec();
        let rotary_spec = spec.rotary_of(layer)?;
        let RotarySpec {
            pairing,
            theta,
            divisor,
        } = rotary_spec;
        if let Some((_, known)) = self.rotations.iter().find(|(known, _)| *known == rotary_spec) {
            return Some(known.clone());
        }
        let (positions, head) = (spec.positions.rows, spec.hidden_size / spec.heads);
        let half = head / 2;
        let angles = (0..positions).flat_map(|position| {
            (0..half).map(move |pair| position as f64 * theta.powf(-2.0 * pair as f64 / head as f64) / divisor)
        });
        let angles: Vec<f64> = angles.collect();
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|&angle| function(angle)).collect();
            Tensor::from_data(TensorData::new(values, [positions, half]).convert::<f32>(), self.device)
        };
        let rotary = Rotary {
            pairing,
            cos: table(f64::cos),
            sin: table(f64::sin),
        };
        self.rotations.push((rotary_spec, rotary.clone()));
        Some(rotary)
    }

    /// The biases by distance, which all layers share.
    pub fn relative_bias(&mut self) -> Result<Option<RelativeBias<B>>, TensorError> {
        if let (None, Some(bias)) = (&self.relative_bias, self.spec().relative_bias) {
            let by_bucket = self.architecture.read(Parameter::RelativeBias, self.source)?;
            let (span, heads) = (bias.distance_max, self.spec().heads);
            let rows = (0..2 * span + 1).map(|row| bias.bucket(row.saturating_sub(span), span.saturating_sub(row)));
            let values: Vec<f32> = rows
                .flat_map(|bucket| &by_bucket[bucket * heads..(bucket + 1) * heads])
                .copied()
                .collect();
            self.relative_bias = Some(RelativeBias {
                table: Tensor::from_data(TensorData::new(values, [2 * span + 1, heads]), self.device),
            });
        }
        Ok(self.relative_bias.clone())
    }

    /// The layer normalization whose scale and shift `parts` names.
    pub fn layer_norm(&mut self, parts: impl Fn(Part) -> Parameter) -> Result<LayerNorm<B>, TensorError> {
        Ok(LayerNorm {
            kind: self.spec().norm_kind,
            gamma: self.vector(parts(Part::Weight))?,
            beta: self.vector(parts(Part::Bias))?,
            eps: self.spec().layer_norm_eps,
        })
    }
}
