//! One encoder layer: self-attention, then feed-forward, each with its residual and its normalization.

use super::spec::NormPlacement;
use super::weights::WeightLoader;
use super::{EncoderError, LayerModule, Parameter};
use crate::backend::{
    AttentionOptions, EncoderBackend, EncoderTail, IndexList, LayerNorm, QueryRows, SelfAttention, TailNorms, Tensor,
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
        let mut query = weights.dense(part_of(LayerModule::Query), dense)?;
        let mut key_value = weights.key_value(layer)?;
        // The last step of the forward pass computes few queries.
        let (_, steps) = spec.layer_order.split_last().expect("an encoder has layers");
        let joined = match steps.contains(&layer) {
            true => weights.join(&mut query, &mut key_value)?,
            false => None,
        };
        let attention = SelfAttention {
            query,
            key_value,
            joined,
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

    /// The new hidden states of all rows, `[tokens, hidden]`. Tokens attend to those of their sequence.
    pub fn forward(&self, states: Tensor<B, 2>, inputs: &B::Inputs) -> Tensor<B, 2> {
        let normalized = self.normalized(states.clone());
        let attended = B::self_attention(normalized.clone(), normalized, &self.attention, inputs, QueryRows::All);
        B::encoder_tail(attended, states, &self.tail)
    }

    /// The new hidden states of the readout rows, `[readout rows, hidden]`.
    pub fn forward_readout(&self, states: Tensor<B, 2>, inputs: &B::Inputs) -> Tensor<B, 2> {
        if self.attention_norm.is_none() {
            return B::readout_layer(states, &self.attention, &self.tail, inputs);
        }
        let selected = B::select_rows(&states, inputs, IndexList::ReadoutRows);
        let attended = B::self_attention(
            self.normalized(selected.clone()),
            self.normalized(states),
            &self.attention,
            inputs,
            QueryRows::ReadoutOnly,
        );
        B::encoder_tail(attended, selected, &self.tail)
    }

    /// Layers of one form launch the same kernels for the same rows: whether it has a normalization before attention,
    /// and its window.
    pub fn form(&self) -> (bool, Option<usize>) {
        (self.attention_norm.is_some(), self.attention.options.window)
    }

    /// The input of attention.
    fn normalized(&self, states: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.attention_norm {
            Some(norm) => B::residual_layer_norm(states, None, norm),
            None => states,
        }
    }
}
