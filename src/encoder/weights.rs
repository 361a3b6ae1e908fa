//! Reads parameters from a checkpoint and prepares them on a device.

use burn::backend::ExecutionError;
use burn::tensor::TensorData;

use super::{Architecture, EncoderError, EncoderSpec, LayerModule, Parameter, Part, PrecisionPolicy, RotarySpec};
use crate::backend::{
    Device, EncoderBackend, LayerNorm, LinearOp, Precision, RelativeBias, Rotary, Tensor, UnsupportedPrecision,
};
use crate::checkpoint::{TensorError, TensorSource};

/// Loads the parameters of one architecture onto one device.
pub(super) struct WeightLoader<'a, B: EncoderBackend> {
    architecture: &'a Architecture,
    source: &'a mut dyn TensorSource,
    device: &'a Device<B>,
    precision: PrecisionPolicy,
    /// Rotations by their frequencies; layers share them.
    rotations: Vec<(RotarySpec, Rotary<B>)>,
    relative_bias: Option<RelativeBias<B>>,
}

/// [`LinearOp::prepare`] or [`LinearOp::prepare_high_precision`].
type Prepare<B> =
    fn(Tensor<B, 2>, Tensor<B, 1>, Precision) -> Result<<B as EncoderBackend>::Linear, UnsupportedPrecision>;

impl<'a, B: EncoderBackend> WeightLoader<'a, B> {
    pub fn new(
        architecture: &'a Architecture,
        source: &'a mut dyn TensorSource,
        device: &'a Device<B>,
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

    /// A tensor of these values on the device.
    fn upload<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Result<Tensor<B, D>, ExecutionError> {
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        B::check(&tensor)?;
        Ok(tensor)
    }

    pub fn vector(&mut self, parameter: Parameter) -> Result<Tensor<B, 1>, EncoderError> {
        let values = self.values(parameter)?;
        let shape = [values.len()];
        Ok(self.upload(values, shape)?)
    }

    /// A matrix, `[rows, columns]`.
    pub fn matrix(&mut self, parameter: Parameter) -> Result<Tensor<B, 2>, EncoderError> {
        let values = self.architecture.read(parameter, self.source)?;
        let shape = self.spec().shape(parameter);
        let shape = shape.as_slice().try_into().expect("matrices have two dimensions");
        Ok(self.upload(values, shape)?)
    }

    /// The dense layer whose weight and bias `parts` names.
    pub fn dense(
        &mut self,
        parts: impl Fn(Part) -> Parameter,
        precision: Precision,
    ) -> Result<B::Linear, EncoderError> {
        let weight = self.matrix(parts(Part::Weight))?;
        let bias = self.vector(parts(Part::Bias))?;
        self.prepare(B::Linear::prepare, weight, bias, precision)
    }

    /// The dense layer whose weight keeps its digits where the backend can.
    pub fn high_precision_dense(
        &mut self,
        weight: Parameter,
        bias: Parameter,
        precision: Precision,
    ) -> Result<B::Linear, EncoderError> {
        let bias = self.vector(bias)?;
        let weight = self.matrix(weight)?;
        self.prepare(B::Linear::prepare_high_precision, weight, bias, precision)
    }

    fn prepare(
        &self,
        prepare: Prepare<B>,
        weight: Tensor<B, 2>,
        bias: Tensor<B, 1>,
        precision: Precision,
    ) -> Result<B::Linear, EncoderError> {
        let linear = prepare(weight, bias, precision)?;
        linear.check()?;
        Ok(linear)
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
        let weight = self.upload(weight, [2 * hidden, hidden])?;
        let bias = self.upload(bias, [2 * hidden])?;
        self.prepare(B::Linear::prepare, weight, bias, self.precision.dense())
    }

    /// [`LinearOp::join`] of a layer's query and its key and value.
    pub fn join(&self, query: &mut B::Linear, key_value: &mut B::Linear) -> Result<Option<B::Linear>, ExecutionError> {
        let joined = B::Linear::join(query, key_value);
        joined.iter().try_for_each(LinearOp::check)?;
        Ok(joined)
    }

    /// The rotation of a layer's queries and keys.
    pub fn rotary(&mut self, layer: usize) -> Result<Option<Rotary<B>>, ExecutionError> {
        let spec = self.spec();
        let Some(rotary_spec) = spec.rotary_of(layer) else {
            return Ok(None);
        };
        let RotarySpec {
            pairing,
            theta,
            divisor,
        } = rotary_spec;
        if let Some((_, known)) = self.rotations.iter().find(|(known, _)| *known == rotary_spec) {
            return Ok(Some(known.clone()));
        }
        let (positions, head) = (spec.positions.rows, spec.hidden_size / spec.heads);
        let half = head / 2;
        let angles = (0..positions).flat_map(|position| {
            (0..half).map(move |pair| position as f64 * theta.powf(-2.0 * pair as f64 / head as f64) / divisor)
        });
        let angles: Vec<f64> = angles.collect();
        let table = |function: fn(f64) -> f64| {
            let values = angles.iter().map(|&angle| function(angle) as f32).collect();
            self.upload(values, [positions, half])
        };
        let rotary = Rotary {
            pairing,
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        };
        self.rotations.push((rotary_spec, rotary.clone()));
        Ok(Some(rotary))
    }

    /// The biases by distance, which all layers share.
    pub fn relative_bias(&mut self) -> Result<Option<RelativeBias<B>>, EncoderError> {
        if let (None, Some(bias)) = (&self.relative_bias, self.spec().relative_bias) {
            let by_bucket = self.architecture.read(Parameter::RelativeBias, self.source)?;
            let (span, heads) = (bias.distance_max, self.spec().heads);
            let rows = (0..2 * span + 1).map(|row| bias.bucket(row.saturating_sub(span), span.saturating_sub(row)));
            let values: Vec<f32> = rows
                .flat_map(|bucket| &by_bucket[bucket * heads..(bucket + 1) * heads])
                .copied()
                .collect();
            self.relative_bias = Some(RelativeBias {
                table: self.upload(values, [2 * span + 1, heads])?,
            });
        }
        Ok(self.relative_bias.clone())
    }

    /// The layer normalization whose scale and shift `parts` names.
    pub fn layer_norm(&mut self, parts: impl Fn(Part) -> Parameter) -> Result<LayerNorm<B>, EncoderError> {
        Ok(LayerNorm {
            kind: self.spec().norm_kind,
            gamma: self.vector(parts(Part::Weight))?,
            beta: self.vector(parts(Part::Bias))?,
            eps: self.spec().layer_norm_eps,
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::backend::reference::{Reference, ReferenceLinear};
    use crate::backend::{Activation, ForwardInputs};
    use crate::lm::PretrainedModel;

    /// The reference backend on a device that takes no tensor, or no dense layer.
    #[derive(Clone, Copy, Debug)]
    struct Full<const DENSE: bool>;

    struct FullLinear<const DENSE: bool>(ReferenceLinear<Full<DENSE>>);

    fn full() -> ExecutionError {
        ExecutionError::WithContext {
            reason: "no memory".to_owned(),
        }
    }

    impl<const DENSE: bool> EncoderBackend for Full<DENSE> {
        type Burn = <Reference as EncoderBackend>::Burn;
        type Linear = FullLinear<DENSE>;
        type Inputs = ForwardInputs;

        fn upload(inputs: ForwardInputs, _device: &Device<Self>) -> ForwardInputs {
            inputs
        }

        fn check<const D: usize>(_tensor: &Tensor<Self, D>) -> Result<(), ExecutionError> {
            if DENSE { Ok(()) } else { Err(full()) }
        }
    }

    impl<const DENSE: bool> LinearOp<Full<DENSE>> for FullLinear<DENSE> {
        fn prepare(
            weight: Tensor<Full<DENSE>, 2>,
            bias: Tensor<Full<DENSE>, 1>,
            precision: Precision,
        ) -> Result<Self, UnsupportedPrecision> {
            ReferenceLinear::prepare(weight, bias, precision).map(Self)
        }

        fn forward(&self, x: Tensor<Full<DENSE>, 2>, activation: Option<Activation>) -> Tensor<Full<DENSE>, 2> {
            self.0.forward(x, activation)
        }

        fn embedding_lookup(&self, inputs: &ForwardInputs) -> Tensor<Full<DENSE>, 2> {
            self.0.embedding_lookup(inputs)
        }

        fn check(&self) -> Result<(), ExecutionError> {
            if DENSE { Err(full()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_weight_that_the_device_cannot_take_is_an_error_of_the_load() {
        let mut model = PretrainedModel::embedded().unwrap();
        let tensors = model.load_on::<Full<false>>(&Default::default(), Precision::F32);
        let dense = model.load_on::<Full<true>>(&Default::default(), Precision::F32);
        for error in [tensors.err(), dense.err()] {
            assert!(matches!(error, Some(EncoderError::Device(_))), "{error:?}");
        }
    }
}
