//! The masked-language-model head: from a hidden state to a logit for each entry of the vocabulary.

use burn::tensor::Tensor;

use crate::backend::{Activation, BertBackend, LayerNorm, LinearOp, Precision};

use super::BertConfig;
use super::weights::{WeightError, WeightSource, Weights};

pub(super) const WORD_EMBEDDINGS: &str = "bert.embeddings.word_embeddings.weight";
pub(super) const DECODER: &str = "cls.predictions.decoder.weight";

/// Whether the decoder is the word embedding table: `tie_word_embeddings` says so, and the checkpoint has
/// no decoder of its own that differs. (transformers 5 uses the file's decoder where there is one.)
///
/// # Errors
/// When a tensor that is there cannot be read.
pub fn is_tied(config: &BertConfig, source: &mut dyn WeightSource) -> Result<bool, WeightError> {
    if !config.tie_word_embeddings || !source.contains(DECODER) {
        return Ok(config.tie_word_embeddings);
    }
    let shape = [config.vocab_size, config.hidden_size];
    Ok(source.tensor(DECODER, &shape)? == source.tensor(WORD_EMBEDDINGS, &shape)?)
}

/// transformers stores one bias under one name or both, and reads an own decoder's from beside it.
pub(super) fn bias_name(tied: bool, contains: &dyn Fn(&str) -> bool) -> &'static str {
    let mut names = ["cls.predictions.bias", "cls.predictions.decoder.bias"];
    if !tied {
        names.reverse();
    }
    let stored = names.into_iter().find(|name| contains(name));
    stored.unwrap_or("cls.predictions.bias")
}

pub(super) struct MaskedLmHead<B: BertBackend> {
    transform: B::Linear,
    norm: LayerNorm<B>,
    /// `[vocab_size, hidden_size]`; the word embeddings too when they are tied.
    pub decoder: B::Linear,
    hidden_act: Activation,
}

impl<B: BertBackend> MaskedLmHead<B> {
    pub fn load(config: &BertConfig, tied: bool, weights: &mut Weights<'_, B>) -> Result<Self, WeightError> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let decoder_weight = if tied { WORD_EMBEDDINGS } else { DECODER };
        let bias = bias_name(tied, &|name| weights.contains(name));
        // The transform decides between close words, for few rows and little time, and rounding its weights cost more
        // agreement than all of the encoder's: it stays f32. The decoder may be the embeddings, which 8 bits hurt.
        let transform = weights.linear_in(Precision::F32, "cls.predictions.transform.dense", hidden, hidden)?;
        let precision = match weights.precision() {
            Precision::Int8 => Precision::Bf16,
            other => other,
        };
        let norm = weights.layer_norm("cls.predictions.transform.LayerNorm", hidden, config.layer_norm_eps)?;
        let bias = weights.vector(bias, vocab)?;
        let decoder = B::Linear::prepare_exact(weights.matrix(decoder_weight, vocab, hidden)?, bias, precision);
        Ok(Self {
            transform,
            norm,
            decoder,
            hidden_act: config.hidden_act,
        })
    }

    /// Logits `[rows, vocab_size]` of the hidden states `[rows, hidden_size]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let transformed = self.transform.forward(hidden, Some(self.hidden_act));
        self.decoder
            .forward(B::residual_layer_norm(transformed, None, &self.norm), None)
    }
}
