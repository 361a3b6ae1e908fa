//! One encoder layer: self-attention, then feed-forward, each with its residual and its normalization.

use burn::tensor::Tensor;

use super::spec::NormPlacement;
use super::weights::WeightLoader;
use super::{EncoderError, LayerModule, Parameter};
use crate::backend::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, LayerNorm, LinearOp, QueryRows, SelfAttention,
};

/// A layer's weights.
pub(super) struct EncoderLayer<B: EncoderBackend> {
    /// The normalization before attention, of a pre-norm layer that has one.
    attention_norm: Option<LayerNorm<B>>,
    attention: SelfAttention<B>,
    tail: Tail<B>,
}

/// The part of a layer after attention.
enum Tail<B: EncoderBackend> {
    /// One fused operation.
    PostNorm(EncoderTail<B>),
    PostNormGated {
        attention_output: B::Linear,
        attention_norm: LayerNorm<B>,
        feed_forward: FeedForward<B>,
        output_norm: LayerNorm<B>,
    },
    PreNorm {
        attention_output: B::Linear,
        norm: LayerNorm<B>,
        feed_forward: FeedForward<B>,
    },
}

/// `down(activation(up(x)))`, or with a gate `down(activation(gate(x)) · up(x))`.
struct FeedForward<B: EncoderBackend> {
    gate: Option<B::Linear>,
    up: B::Linear,
    activation: Activation,
    down: B::Linear,
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
            rotary: weights.rotary(layer),
            bias: weights.relative_bias()?,
        };
        let attention_output = weights.dense(part_of(LayerModule::AttentionOutput), dense)?;
        let has_norm = match spec.norm_placement {
            NormPlacement::Post => true,
            NormPlacement::Pre => layer > 0 || spec.first_attention_norm,
        };
        let attention_norm = has_norm.then(|| weights.layer_norm(part_of(LayerModule::AttentionNorm)));
        let attention_norm = attention_norm.transpose()?;
        let gate = match spec.gated {
            true => Some(weights.dense(part_of(LayerModule::FeedForwardGate), dense)?),
            false => None,
        };
        let up = weights.dense(part_of(LayerModule::FeedForwardUp), dense)?;
        let down = weights.dense(part_of(LayerModule::FeedForwardDown), dense)?;
        let output_norm = weights.layer_norm(part_of(LayerModule::OutputNorm))?;
        let activation = spec.activation;
        let feed_forward = |gate, up, down| FeedForward {
            gate,
            up,
            activation,
            down,
        };
        let (attention_norm, tail) = match (spec.norm_placement, attention_norm, gate) {
            (NormPlacement::Post, Some(attention_norm), None) => {
                let tail = EncoderTail {
                    attention_output,
                    attention_norm,
                    up,
                    activation,
                    down,
                    output_norm,
                };
                (None, Tail::PostNorm(tail))
            }
            (NormPlacement::Post, Some(attention_norm), gate) => {
                let tail = Tail::PostNormGated {
                    attention_output,
                    attention_norm,
                    feed_forward: feed_forward(gate, up, down),
                    output_norm,
                };
                (None, tail)
            }
            (_, attention_norm, gate) => {
                let tail = Tail::PreNorm {
                    attention_output,
                    norm: output_norm,
                    feed_forward: feed_forward(gate, up, down),
                };
                (attention_norm, tail)
            }
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
        match &self.tail {
            Tail::PostNorm(tail) => B::encoder_tail(attended, residual, tail),
            Tail::PostNormGated {
                attention_output,
                attention_norm,
                feed_forward,
                output_norm,
            } => {
                let x = attention_output.forward_normalized(attended, residual, attention_norm);
                let inner = feed_forward.inner(x.clone());
                feed_forward.down.forward_normalized(inner, x, output_norm)
            }
            Tail::PreNorm {
                attention_output,
                norm,
                feed_forward,
            } => {
                let x = B::add(attention_output.forward(attended, None), residual);
                let inner = feed_forward.inner(B::residual_layer_norm(x.clone(), None, norm));
                B::add(feed_forward.down.forward(inner, None), x)
            }
        }
    }
}

impl<B: EncoderBackend> FeedForward<B> {
    /// The input of `down`.
    fn inner(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.gate {
            Some(gate) => {
                let factor = gate.forward(x.clone(), Some(self.activation));
                B::multiply(factor, self.up.forward(x, None))
            }
            None => self.up.forward(x, Some(self.activation)),
        }
    }
}
