//! The embeddings: word, position and token type, added, normalized and projected.

use burn::tensor::TensorData;

use super::weights::WeightLoader;
use super::{EncoderError, MaskScaling, Parameter};
use crate::backend::{EncoderBackend, ForwardInputs, IndexList, LayerNorm, LinearOp, Tensor, WordTable, reference};

/// Position and token-type embeddings, and what follows their sum.
///
/// With a tied decoder the word embeddings are the decoder's weight, which the head keeps.
pub(super) struct Embeddings<B: EncoderBackend> {
    /// `[vocab_size, embedding]`; `None` if the decoder is tied.
    words: Option<Tensor<B, 2>>,
    mask_scaling: Option<MaskScaling>,
    /// `[positions, embedding]`, with token type 0 added: every token of a sequence has that type.
    positions: Option<Tensor<B, 2>>,
    /// Token type 0 of an encoder without position embeddings, `[1, embedding]`.
    token_type: Option<Tensor<B, 2>>,
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
        let mut positions = match spec.positions.has_table {
            true => Some(weights.matrix(Parameter::PositionEmbeddings)?),
            false => None,
        };
        let first = spec.positions.first_row();
        if first > 0 {
            positions = positions.map(|table| table.slice([first..spec.positions.rows, columns.clone()]));
        }
        let types = [
            (spec.token_types, Parameter::TokenTypeEmbeddings),
            (spec.task_types, Parameter::TaskTypeEmbeddings),
        ];
        let mut token_type = None;
        for (_, table) in types.into_iter().filter(|(rows, _)| rows.is_some()) {
            let row = weights.matrix(table)?.slice([0..1, columns.clone()]);
            match &mut positions {
                Some(positions) => *positions = positions.clone() + row,
                None => token_type = Some(row),
            }
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
            mask_scaling: spec.mask_scaling,
            positions,
            token_type,
            norm: norm.transpose()?,
            projection,
        })
    }

    /// Hidden states of all tokens, `[tokens, hidden]`. `decoder` holds the word embeddings if it is tied.
    pub fn forward(&self, inputs: &B::Inputs, decoder: &B::Linear) -> Tensor<B, 2> {
        let table = match &self.words {
            Some(table) => WordTable::Table(table),
            None => WordTable::Decoder(decoder),
        };
        let positions = self.positions.as_ref();
        let embedded = match (&self.norm, self.mask_scaling, &self.token_type) {
            (Some(norm), None, None) => B::embed(table, positions, norm, inputs),
            _ => self.composed(reference::word_embeddings(table, inputs), inputs),
        };
        match &self.projection {
            Some(projection) => projection.forward(embedded, None),
            None => embedded,
        }
    }

    /// The embeddings of an encoder with parts that [`EncoderBackend::embed`] lacks.
    fn composed(&self, mut words: Tensor<B, 2>, inputs: &B::Inputs) -> Tensor<B, 2> {
        if let Some(scaling) = self.mask_scaling {
            let factors = scaling.factors(inputs.as_ref());
            let shape = [factors.len(), 1];
            let device = words.device();
            words = words * Tensor::from_data(TensorData::new(factors, shape), &device);
        }
        if let Some(token_type) = &self.token_type {
            words = words + token_type.clone();
        }
        let positions = self.positions.as_ref();
        let positions = positions.map(|table| B::select_rows(table, inputs, IndexList::PositionIds));
        match (&self.norm, positions) {
            (Some(norm), positions) => B::residual_layer_norm(words, positions, norm),
            (None, Some(positions)) => B::add(words, positions),
            (None, None) => words,
        }
    }
}

impl MaskScaling {
    /// The factor of each token's word embedding.
    fn factors(self, inputs: &ForwardInputs) -> Vec<f32> {
        let mut factors = vec![1.0; inputs.token_ids.len()];
        for bounds in inputs.token_offsets.windows(2) {
            let tokens = &inputs.token_ids[bounds[0]..bounds[1]];
            let masks = tokens.iter().filter(|&&token| token == self.mask_token).count();
            let unmasked = 1.0 - masks as f64 / tokens.len() as f64;
            for (factor, &token) in factors[bounds[0]..bounds[1]].iter_mut().zip(tokens) {
                *factor = match token == self.mask_token {
                    true => 0.0,
                    false => (self.kept / unmasked) as f32,
                };
            }
        }
        factors
    }
}
