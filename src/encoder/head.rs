//! The masked-language-model head: from a hidden state to a logit for each token of the vocabulary.

use burn::tensor::Tensor;

use super::weights::WeightLoader;
use super::{EncoderError, Parameter};
use crate::backend::{Activation, EncoderBackend, LayerNorm, LinearOp};

pub(super) struct MaskedLmHead<B: EncoderBackend> {
    dense: B::Linear,
    norm: LayerNorm<B>,
    /// `[vocab_size, head size]`; the word embeddings too if the decoder is tied.
    pub decoder: B::Linear,
    activation: Activation,
}

impl<B: EncoderBackend> MaskedLmHead<B> {
    pub fn load(weights: &mut WeightLoader<'_, B>) -> Result<Self, EncoderError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let decoder = match spec.head.tied_decoder {
            true => Parameter::WordEmbeddings,
            false => Parameter::Decoder,
        };
        let dense = weights.dense(Parameter::HeadDense, policy.head_dense())?;
        let norm = weights.layer_norm(Parameter::HeadNorm)?;
        let bias = weights.vector(Parameter::DecoderBias)?;
        let decoder = B::Linear::prepare_high_precision(weights.matrix(decoder)?, bias, policy.decoder())?;
        Ok(Self {
            dense,
            norm,
            decoder,
            activation: spec.head.activation,
        })
    }

    /// Logits `[rows, vocab_size]` of the hidden states `[rows, hidden]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let transformed = self.dense.forward(hidden, Some(self.activation));
        self.decoder
            .forward(B::residual_layer_norm(transformed, None, &self.norm), None)
    }
}
