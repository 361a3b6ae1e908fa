//! The masked-language-model head: from a hidden state to a logit for each token of the vocabulary.

use super::weights::WeightLoader;
use super::{EncoderError, Parameter};
use crate::backend::{Activation, EncoderBackend, LayerNorm, LinearOp, PooledRows, Tensor};

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
        let decoder = weights.high_precision_dense(decoder, Parameter::DecoderBias, policy.decoder())?;
        Ok(Self { transform, decoder })
    }

    /// Logits `[rows, vocab_size]` of the hidden states `[rows, hidden]`.
    pub fn forward(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.decoder.forward(self.transformed(hidden), None)
    }

    /// The logits of the rows of `pools`, which ascend, pooled to `[pools, vocab_size]`; `hidden` is `[rows, hidden]`.
    /// It goes block by block; before each `is_needed` is called, and the result is `None` as soon as it is false.
    pub fn forward_pooled(
        &self,
        hidden: &Tensor<B, 2>,
        pools: &[PooledRows],
        vocab_size: usize,
        is_needed: impl Fn() -> bool,
    ) -> Option<Tensor<B, 2>> {
        let [rows, columns] = hidden.dims();
        let mut pooled = Tensor::zeros([pools.len(), vocab_size], &hidden.device());
        for block in PooledRows::blocks(pools, B::POOLED_ROWS_MAX) {
            if !is_needed() {
                return None;
            }
            // Of a size that the backend has kernels for; the further rows are not pooled.
            let padded = B::padded_rows(block.len()).min(rows);
            let first = block.start.min(rows - padded);
            let states = match padded == rows {
                true => hidden.clone(),
                false => hidden.clone().slice([first..first + padded, 0..columns]),
            };
            let of_block = PooledRows::within(pools, &block, first);
            pooled = self.decoder.forward_pooled(self.transformed(states), &of_block, pooled);
        }
        Some(pooled)
    }

    /// The input of the decoder.
    fn transformed(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.transform {
            Some(Transform {
                dense,
                activation,
                norm,
            }) => B::residual_layer_norm(dense.forward(hidden, Some(*activation)), None, norm),
            None => hidden,
        }
    }
}
