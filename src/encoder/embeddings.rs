//! The embeddings: word, position and token type, added and normalized.

use burn::tensor::Tensor;

use super::Parameter;
use super::weights::WeightLoader;
use crate::backend::{EncoderBackend, IndexList, LayerNorm, LinearOp};
use crate::checkpoint::TensorError;

/// Position and token-type embeddings, and the normalization of the sum.
///
/// With a tied decoder the word embeddings are the decoder's weight, which the head keeps.
pub(super) struct Embeddings<B: EncoderBackend> {
    /// `[vocab_size, hidden]`; `None` if the decoder is tied.
    words: Option<Tensor<B, 2>>,
    /// `[max_tokens, hidden]`, with token type 0 added: every token of a sequence has that type.
    positions: Tensor<B, 2>,
    norm: LayerNorm<B>,
}

impl<B: EncoderBackend> Embeddings<B> {
    pub fn load(weights: &mut WeightLoader<'_, B>) -> Result<Self, TensorError> {
        let spec = weights.spec();
        let words = match spec.tied_decoder {
            true => None,
            false => Some(weights.matrix(Parameter::WordEmbeddings)?),
        };
        let mut positions = weights.matrix(Parameter::PositionEmbeddings)?;
        if spec.positions.offset > 0 {
            positions = positions.slice([spec.positions.offset..spec.positions.rows, 0..spec.hidden_size]);
        }
        if spec.token_types.is_some() {
            let types = weights.matrix(Parameter::TokenTypeEmbeddings)?;
            positions = positions + types.slice([0..1, 0..spec.hidden_size]);
        }
        Ok(Self {
            words,
            positions,
            norm: weights.layer_norm(Parameter::EmbeddingNorm)?,
        })
    }

    /// Hidden states of all tokens, `[tokens, hidden]`. `decoder` holds the word embeddings if it is tied.
    pub fn forward(&self, inputs: &B::Inputs, decoder: &B::Linear) -> Tensor<B, 2> {
        let words = match &self.words {
            Some(table) => B::select_rows(table, inputs, IndexList::TokenIds),
            None => decoder.embedding_lookup(inputs),
        };
        let positions = B::select_rows(&self.positions, inputs, IndexList::PositionIds);
        B::residual_layer_norm(words, Some(positions), &self.norm)
    }
}
