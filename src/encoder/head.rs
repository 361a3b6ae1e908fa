//! The masked-language-model head: from a hidden state to a logit for each token of the vocabulary.

use burn::tensor::Tensor;

use super::Parameter;
use super::weights::WeightLoader;
use crate::backend::{Activation, BertBackend, LayerNorm, LinearOp};
use crate::checkpoint::TensorError;

pub(super) struct MaskedLmHead<B: BertBackend> {
    dense: B::Linear,
    norm: LayerNorm<B>,
    /// `[vocab_size, hidden]`; the word embeddings too if the decoder is tied.
    pub decoder: B::Linear,
    activation: Activation,
}

impl<B: BertBackend> MaskedLmHead<B> {
    pub fn load(weights: &mut WeightLoader<'_, B>) -> Result<Self, TensorError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let decoder = match spec.tied_decoder {
            true => Parameter::WordEmbeddings,
            false => Parameter::Decoder,
        };
        let dense = weights.dense(Parameter::HeadDense, policy.head_dense())?;
        let norm = weights.layer_norm(Parameter::HeadNorm)?;
        let bias = weights.vector(Parameter::DecoderBias)?;
        let decoder = B::Linear::prepare_exact(weights.matrix(decoder)?, bias, policy.decoder());
        Ok(Self {
            dense,
            norm,
            decoder,
            activation: spec.head_activation,
        })
    }

    /// Logits `[rows, vocab_size]` of the hidden states `[rows, hidden]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let transformed = self.dense.forward(hidden, Some(self.activation));
        self.decoder
            .forward(B::residual_layer_norm(transformed, None, &self.norm), None)
    }
}
