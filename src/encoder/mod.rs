//! A transformer encoder with a masked-language-model head, once, generic over the backend.
//!
//! It knows neither requests nor files: an [`Architecture`] says what to build, a
//! [`TensorSource`] gives the weights, and a forward pass goes from index lists on the
//! device to logits.
//!
//! | file | subject |
//! |---|---|
//! | `spec` | sizes and options of an encoder, as data |
//! | `parameters` | its tensors by their role |
//! | `families/` | one file per architecture: `config.json` → spec, role → names in checkpoints |
//! | `precision` | which part computes in which precision |
//! | `weights` | parameters from a checkpoint to the device |
//! | `embeddings`, `layer`, `head` | the parts of the forward pass |

mod embeddings;
mod families;
mod head;
mod layer;
mod parameters;
mod precision;
mod spec;
mod weights;

use burn::backend::ExecutionError;

use crate::backend::{Device, EncoderBackend, LayerNorm, PooledRows, Precision, Tensor, UnsupportedPrecision};
use crate::checkpoint::{TensorError, TensorSource};
use embeddings::Embeddings;
pub use families::{Architecture, ConfigError, Family};
use head::MaskedLmHead;
use layer::EncoderLayer;
pub use parameters::{LayerModule, Parameter, Part};
pub use precision::PrecisionPolicy;
pub use spec::{
    Biases, EncoderSpec, HeadSpec, LocalAttention, MaskScaling, NormPlacement, PositionEmbeddings, PositionRule,
    RelativeBiasSpec, RotarySpec,
};
use weights::WeightLoader;

/// Reason why an encoder cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Precision(#[from] UnsupportedPrecision),
    /// The device could not take a weight.
    #[error(transparent)]
    Device(#[from] ExecutionError),
}

/// An encoder and its head, the weights on one device of backend `B`.
pub struct Encoder<B: EncoderBackend> {
    embeddings: Embeddings<B>,
    layers: Vec<EncoderLayer<B>>,
    /// The layers in the order of the forward pass.
    layer_order: Vec<usize>,
    final_norm: Option<LayerNorm<B>>,
    head: MaskedLmHead<B>,
    vocab_size: usize,
}

impl<B: EncoderBackend> Encoder<B> {
    /// Reads the weights from `source`, tensor by tensor, and prepares them on `device` in `precision`.
    ///
    /// # Errors
    /// A precision that the backend does not compute in, before anything is read; or the first tensor that is missing,
    /// has another shape, cannot be read, or does not reach the device.
    pub fn load(
        architecture: &Architecture,
        source: &mut dyn TensorSource,
        device: &Device<B>,
        precision: Precision,
    ) -> Result<Self, EncoderError> {
        UnsupportedPrecision::check(precision, B::PRECISIONS)?;
        let had_bias = architecture.spec.biases.decoder;
        let architecture = architecture.clone().with_stored_decoder(source)?;
        if had_bias && !architecture.spec.biases.decoder {
            tracing::warn!(
                "the decoder is not tied to the embeddings and has no bias of its own: as in transformers 5 its bias is \
                 zero; transformers 4 used {}",
                architecture.stored_name(Parameter::DecoderBias, source)
            );
        }
        let policy = PrecisionPolicy::new(precision);
        let mut weights = WeightLoader::new(&architecture, source, device, policy);
        let embeddings = Embeddings::load(&mut weights)?;
        let layers = (0..architecture.spec.layers)
            .map(|layer| EncoderLayer::load(layer, &mut weights))
            .collect::<Result<_, _>>()?;
        let final_norm = architecture.spec.final_norm;
        let final_norm = final_norm
            .then(|| weights.layer_norm(Parameter::FinalNorm))
            .transpose()?;
        let head = MaskedLmHead::load(&mut weights)?;
        Ok(Self {
            embeddings,
            layers,
            layer_order: architecture.spec.layer_order.clone(),
            final_norm,
            head,
            vocab_size: architecture.spec.vocab_size,
        })
    }

    /// Hidden states of the last layer at the readout rows, `[readout rows, hidden]`.
    ///
    /// The last layer computes keys and values for all tokens and everything else for the readout rows alone. Before
    /// each layer `is_needed` is called; the result is `None` as soon as it is false.
    ///
    /// # Panics
    /// If there is no readout row, or the encoder has no layer.
    pub fn readout_states(&self, inputs: &B::Inputs, is_needed: impl Fn() -> bool) -> Option<Tensor<B, 2>> {
        let (last, layers) = self.layer_order.split_last().expect("an encoder has layers");
        self.states_after(layers.iter().chain([last]), inputs, is_needed)
    }

    /// [`readout_states`](Self::readout_states) without the layers that launch the same kernels as others.
    ///
    /// # Panics
    /// As there.
    pub fn warm_up_states(&self, inputs: &B::Inputs) -> Tensor<B, 2> {
        let (last, layers) = self.layer_order.split_last().expect("an encoder has layers");
        let mut forms = Vec::new();
        // The first layer gets other hidden states than those that follow.
        let distinct = layers.iter().enumerate().filter(|&(step, &layer)| {
            let form = (step == 0, self.layers[layer].form());
            let is_new = !forms.contains(&form);
            forms.push(form);
            is_new
        });
        let distinct: Vec<usize> = distinct.map(|(_, &layer)| layer).collect();
        let states = self.states_after(distinct.iter().chain([last]), inputs, || true);
        states.expect("it is needed")
    }

    /// Hidden states at the readout rows after `layers`, of which there is at least one.
    fn states_after<'a>(
        &self,
        layers: impl Iterator<Item = &'a usize>,
        inputs: &B::Inputs,
        is_needed: impl Fn() -> bool,
    ) -> Option<Tensor<B, 2>> {
        let mut hidden = self.embeddings.forward(inputs, &self.head.decoder);
        let mut layers = layers.map(|&layer| &self.layers[layer]).peekable();
        while let Some(layer) = layers.next() {
            if !is_needed() {
                return None;
            }
            hidden = match layers.peek() {
                Some(_) => layer.forward(hidden, inputs),
                None => layer.forward_readout(hidden, inputs),
            };
        }
        let states = hidden;
        Some(match &self.final_norm {
            Some(norm) => B::residual_layer_norm(states, None, norm),
            None => states,
        })
    }

    /// Logits over the vocabulary, `[rows, vocab_size]`, of hidden states `[rows, hidden]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head.forward(hidden)
    }

    /// The logits of the rows of `pools`, which ascend, pooled to `[pools, vocab_size]`; `hidden` is `[rows, hidden]`.
    /// The result is `None` as soon as `is_needed`, which is called before each block of rows, is false.
    pub fn pooled_logits(
        &self,
        hidden: &Tensor<B, 2>,
        pools: &[PooledRows],
        is_needed: impl Fn() -> bool,
    ) -> Option<Tensor<B, 2>> {
        self.head.forward_pooled(hidden, pools, self.vocab_size, is_needed)
    }
}
