//! One encoder layer: self-attention, then feed-forward, each with its residual and normalization after it (post-norm).

use burn::tensor::Tensor;

use super::weights::WeightLoader;
use super::{LayerModule, Parameter};
use crate::backend::{AfterAttention, BertBackend, Precision};
use crate::checkpoint::TensorError;

/// A layer's weights. Query is apart from key and value, so that a layer computes fewer rows than it attends to; that is
/// what makes the last layer cheap.
pub(super) struct EncoderLayer<B: BertBackend> {
    query: B::Linear,
    key_value: B::Linear,
    after_attention: AfterAttention<B>,
    heads: usize,
    /// Of what attention computes.
    precision: Precision,
}

impl<B: BertBackend> EncoderLayer<B> {
    pub fn load(layer: usize, weights: &mut WeightLoader<'_, B>) -> Result<Self, TensorError> {
        let spec = weights.spec();
        let policy = weights.precision();
        let part_of = |module| move |part| Parameter::Layer(layer, module, part);
        let dense = policy.dense();
        Ok(Self {
            query: weights.dense(part_of(LayerModule::Query), dense)?,
            key_value: weights.key_value(layer)?,
            after_attention: AfterAttention {
                attention_output: weights.dense(part_of(LayerModule::AttentionOutput), dense)?,
                attention_norm: weights.layer_norm(part_of(LayerModule::AttentionNorm))?,
                intermediate: weights.dense(part_of(LayerModule::FeedForwardUp), dense)?,
                hidden_act: spec.activation,
                output: weights.dense(part_of(LayerModule::FeedForwardDown), dense)?,
                output_norm: weights.layer_norm(part_of(LayerModule::OutputNorm))?,
            },
            heads: spec.heads,
            precision: policy.attention(layer, spec.layers),
        })
    }

    /// The new hidden states of the rows `query_states` `[query rows, hidden]`, which attend to `kv_states`
    /// `[tokens, hidden]` within their sequences. In all layers but the last the two are the same.
    pub fn forward(&self, query_states: Tensor<B, 2>, kv_states: Tensor<B, 2>, spans: &B::Segments) -> Tensor<B, 2> {
        let attended = B::attend(
            query_states.clone(),
            kv_states,
            &self.query,
            &self.key_value,
            spans,
            self.heads,
            self.precision,
        );
        B::after_attention(attended, query_states, &self.after_attention)
    }
}
