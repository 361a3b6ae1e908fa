//! The masked-language-model head: from a hidden state to a logit for each token of the vocabulary.

use burn::tensor::Tensor;

use super::weights::WeightLoader;
use super::{EncoderError, Parameter};
use crate::backend::{Activation, EncoderBackend, LayerNorm, LinearOp};

pub(super) struct MaskedLmHead<B: EncoderBackend> {
    /// `None` for a decoder alone.
    transform: Option<Transform<B>>,
    /// `[vocab_size, head size]`; the word embeddings too if the decoder is tied.
    pub decoder: B::Linear,
}

/// The part of a head before the decoder.
struct Transform<B: EncoderBackend> {
    dense: B::Linear,
    activation: Activation,
    norm: LayerNorm<B>,
}

impl<B: EncoderBackend> MaskedLmHead<B> {
    pub fn load(weights: &mut WeightLoader<'_, B>) -> Result<Self, EncoderError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let decoder = match spec.head.tied_decoder {
            true => Parameter::WordEmbeddings,
            false => Parameter::Decoder,
        };
        let transform = match spec.head.has_dense {
            true => Some(Transform {
                dense: weights.dense(Parameter::HeadDense, policy.head_dense())?,
                activation: spec.head.activation,
                norm: weights.layer_norm(Parameter::HeadNorm)?,
            }),
            false => None,
        };
        let bias = weights.vector(Parameter::DecoderBias)?;
        let decoder = B::Linear::prepare_high_precision(weights.matrix(decoder)?, bias, policy.decoder())?;
        Ok(Self { transform, decoder })
    }

    /// Logits `[rows, vocab_size]` of the hidden states `[rows, hidden]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let states = match &self.transform {
            Some(Transform {
                dense,
                activation,
                norm,
            }) => B::residual_layer_norm(dense.forward(hidden, Some(*activation)), None, norm),
            None => hidden,
        };
        self.decoder.forward(states, None)
    }
}
