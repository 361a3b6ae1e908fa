//! One encoder layer: self-attention, then feed-forward, each with its residual and normalization after it (post-norm).

use burn::tensor::Tensor;

use super::weights::WeightLoader;
use super::{EncoderError, LayerModule, Parameter};
use crate::backend::{AttentionOptions, EncoderBackend, EncoderTail, QueryRows, SelfAttention};

/// A layer's weights.
pub(super) struct EncoderLayer<B: EncoderBackend> {
    attention: SelfAttention<B>,
    tail: EncoderTail<B>,
}

impl<B: EncoderBackend> EncoderLayer<B> {
    pub fn load(layer: usize, weights: &mut WeightLoader<'_, B>) -> Result<Self, EncoderError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let part_of = |module| move |part| Parameter::Layer(layer, module, part);
        let dense = policy.dense();
        Ok(Self {
            attention: SelfAttention {
                query: weights.dense(part_of(LayerModule::Query), dense)?,
                key_value: weights.key_value(layer)?,
                options: AttentionOptions {
                    heads: spec.heads,
                    precision: policy.attention(layer, spec.layers),
                },
            },
            tail: EncoderTail {
                attention_output: weights.dense(part_of(LayerModule::AttentionOutput), dense)?,
                attention_norm: weights.layer_norm(part_of(LayerModule::AttentionNorm))?,
                up: weights.dense(part_of(LayerModule::FeedForwardUp), dense)?,
                activation: spec.activation,
                down: weights.dense(part_of(LayerModule::FeedForwardDown), dense)?,
                output_norm: weights.layer_norm(part_of(LayerModule::OutputNorm))?,
            },
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
        let attended = B::self_attention(query_states.clone(), kv_states, &self.attention, inputs, rows);
        B::encoder_tail(attended, query_states, &self.tail)
    }
}
