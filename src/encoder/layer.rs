//! One encoder layer: self-attention, then feed-forward, each with its residual and its normalization.

use super::spec::NormPlacement;
use super::weights::WeightLoader;
use super::{EncoderError, LayerModule, Parameter};
use crate::backend::{
    AttentionOptions, EncoderBackend, EncoderTail, LayerNorm, QueryRows, SelfAttention, TailNorms, Tensor,
};

/// A layer's weights.
pub(super) struct EncoderLayer<B: EncoderBackend> {
    /// The normalization before attention, of a pre-norm layer that has one.
    attention_norm: Option<LayerNorm<B>>,
    attention: SelfAttention<B>,
    tail: EncoderTail<B>,
}

impl<B: EncoderBackend> EncoderLayer<B> {
    pub fn load(layer: usize, weights: &mut WeightLoader<'_, B>) -> Result<Self, EncoderError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let part_of = |module| move |part| Parameter::Layer(layer, module, part);
        let dense = policy.dense();
        let is_last = spec.layer_order.last() == Some(&layer);
        let attention = SelfAttention {
            query: weights.dense(part_of(LayerModule::Query), dense)?,
            key_value: weights.key_value(layer)?,
            options: AttentionOptions {
                heads: spec.heads,
                precision: policy.attention(is_last || !spec.has_plain_layers()),
                window: spec.local_of(layer).map(|local| local.distance),
            },
            rotary: weights.rotary(layer)?,
            bias: weights.relative_bias()?,
        };
        let attention_output = weights.dense(part_of(LayerModule::AttentionOutput), dense)?;
        let norm_of = |module, weights: &mut WeightLoader<'_, B>| weights.layer_norm(part_of(module));
        let (attention_norm, norms) = match spec.norm_placement {
            NormPlacement::Post => {
                let norms = TailNorms::Post {
                    attention: norm_of(LayerModule::AttentionNorm, weights)?,
                    output: norm_of(LayerModule::OutputNorm, weights)?,
                };
                (None, norms)
            }
            NormPlacement::Pre => {
                let has_norm = layer > 0 || spec.first_attention_norm;
                let before = has_norm.then(|| norm_of(LayerModule::AttentionNorm, weights));
                let norms = TailNorms::Pre(norm_of(LayerModule::OutputNorm, weights)?);
                (before.transpose()?, norms)
            }
        };
        let gate = match spec.gated {
            true => Some(weights.dense(part_of(LayerModule::FeedForwardGate), dense)?),
            false => None,
        };
        let tail = EncoderTail {
            attention_output,
            gate,
            up: weights.dense(part_of(LayerModule::FeedForwardUp), dense)?,
            activation: spec.activation,
            down: weights.dense(part_of(LayerModule::FeedForwardDown), dense)?,
            norms,
        };
        Ok(Self {
            attention_norm,
            attention,
            tail,
        })
    }

    /// The new hidden states of the rows `query_states` `[query rows, hidden]`, which attend to `kv_states`
    /// `[tokens, hidden]` within their sequences. In all layers but the last the two are the same.
    pub fn forward(
        &self,
        query_states: Tensor<B, 2>,
        kv_states: Tensor<B, 2>,
        inputs: &B::Inputs,
        rows: QueryRows,
    ) -> Tensor<B, 2> {
        let residual = query_states.clone();
        let (queries, keys) = match (&self.attention_norm, rows) {
            (None, _) => (query_states, kv_states),
            (Some(norm), QueryRows::All) => {
                let normalized = B::residual_layer_norm(query_states, None, norm);
                (normalized.clone(), normalized)
            }
            (Some(norm), QueryRows::ReadoutOnly) => (
                B::residual_layer_norm(query_states, None, norm),
                B::residual_layer_norm(kv_states, None, norm),
            ),
        };
        let attended = B::self_attention(queries, keys, &self.attention, inputs, rows);
        B::encoder_tail(attended, residual, &self.tail)
    }
}
