//! The embeddings: word, position and token type, added, normalized and projected.

use burn::tensor::Tensor;

use super::weights::WeightLoader;
use super::{EncoderError, Parameter};
use crate::backend::{EncoderBackend, IndexList, LayerNorm, LinearOp};

/// Position and token-type embeddings, and what follows their sum.
///
/// With a tied decoder the word embeddings are the decoder's weight, which the head keeps.
pub(super) struct Embeddings<B: EncoderBackend> {
    /// `[vocab_size, embedding]`; `None` if the decoder is tied.
    words: Option<Tensor<B, 2>>,
    /// `[positions, embedding]`, with token type 0 added: every token of a sequence has that type.
    positions: Tensor<B, 2>,
    norm: Option<LayerNorm<B>>,
    /// From the width of the embeddings to that of the layers.
    projection: Option<B::Linear>,
}

impl<B: EncoderBackend> Embeddings<B> {
    pub fn load(weights: &mut WeightLoader<'_, B>) -> Result<Self, EncoderError> {
        let spec = weights.spec();
        let precision = weights.precision().dense();
        let words = match spec.head.tied_decoder {
            true => None,
            false => Some(weights.matrix(Parameter::WordEmbeddings)?),
        };
        let columns = 0..spec.embedding_size;
        let mut positions = weights.matrix(Parameter::PositionEmbeddings)?;
        let first = spec.positions.first_row();
        if first > 0 {
            positions = positions.slice([first..spec.positions.rows, columns.clone()]);
        }
        let types = [
            (spec.token_types, Parameter::TokenTypeEmbeddings),
            (spec.task_types, Parameter::TaskTypeEmbeddings),
        ];
        for (_, table) in types.into_iter().filter(|(rows, _)| rows.is_some()) {
            positions = positions + weights.matrix(table)?.slice([0..1, columns.clone()]);
        }
        let norm = spec
            .embedding_norm
            .then(|| weights.layer_norm(Parameter::EmbeddingNorm));
        let projection = match spec.embedding_projection {
            true => Some(weights.dense(Parameter::EmbeddingProjection, precision)?),
            false => None,
        };
        Ok(Self {
            words,
            positions,
            norm: norm.transpose()?,
            projection,
        })
    }

    /// Hidden states of all tokens, `[tokens, hidden]`. `decoder` holds the word embeddings if it is tied.
    pub fn forward(&self, inputs: &B::Inputs, decoder: &B::Linear) -> Tensor<B, 2> {
        let words = match &self.words {
            Some(table) => B::select_rows(table, inputs, IndexList::TokenIds),
            None => decoder.embedding_lookup(inputs),
        };
        let positions = B::select_rows(&self.positions, inputs, IndexList::PositionIds);
        let embedded = match &self.norm {
            Some(norm) => B::residual_layer_norm(words, Some(positions), norm),
            None => words + positions,
        };
        match &self.projection {
            Some(projection) => projection.forward(embedded, None),
            None => embedded,
        }
    }
}
