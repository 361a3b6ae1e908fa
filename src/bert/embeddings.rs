//! The first layer: what a token is and where it stands.

use burn::tensor::Tensor;

use crate::backend::{BertBackend, LayerNorm, LinearOp, Lists};

use super::BertConfig;
use super::weights::{WeightError, Weights};

/// Position and token type embeddings, and the normalization of the sum.
///
/// The word embeddings are not here: with a tied decoder they are the head's own weight, kept once.
pub(super) struct Embeddings<B: BertBackend> {
    /// `[vocab_size, hidden_size]`, unless the decoder is tied.
    words: Option<Tensor<B, 2>>,
    /// Position embeddings with token type 0 added, `[max_position_embeddings, hidden_size]`: a text to
    /// fill in is a single segment, so the type never changes.
    positions: Tensor<B, 2>,
    norm: LayerNorm<B>,
}

impl<B: BertBackend> Embeddings<B> {
    pub fn load(config: &BertConfig, tied: bool, weights: &mut Weights<'_, B>) -> Result<Self, WeightError> {
        let hidden = config.hidden_size;
        let words = match tied {
            true => None,
            false => Some(weights.matrix("bert.embeddings.word_embeddings.weight", config.vocab_size, hidden)?),
        };
        let positions = weights.matrix(
            "bert.embeddings.position_embeddings.weight",
            config.max_position_embeddings,
            hidden,
        )?;
        let types = weights.matrix(
            "bert.embeddings.token_type_embeddings.weight",
            config.type_vocab_size,
            hidden,
        )?;
        Ok(Self {
            words,
            positions: positions + types.slice([0..1, 0..hidden]),
            norm: weights.layer_norm("bert.embeddings.LayerNorm", hidden, config.layer_norm_eps)?,
        })
    }

    /// Hidden states of all tokens, `[tokens, hidden_size]`. `tied` is the decoder.
    pub fn forward(&self, lists: &Lists<B::Rows, B::Segments>, tied: &B::Linear) -> Tensor<B, 2> {
        let words = match &self.words {
            Some(table) => B::select_rows(table, &lists.input_ids),
            None => tied.weight_rows(&lists.input_ids),
        };
        let positions = B::select_rows(&self.positions, &lists.position_ids);
        B::residual_layer_norm(words, Some(positions), &self.norm)
    }
}
