//! One encoder layer: attention, then feed-forward, each with its residual and normalization after it.

use burn::tensor::Tensor;

use crate::backend::{AfterAttention, BertBackend, Precision};

use super::BertConfig;
use super::weights::{WeightError, Weights};

/// A layer's weights. Query stands apart from key and value so that a layer may be asked for fewer rows
/// than it attends to; that is what makes the last layer cheap.
pub(super) struct EncoderLayer<B: BertBackend> {
    query: B::Linear,
    key_value: B::Linear,
    after_attention: AfterAttention<B>,
    heads: usize,
    /// Of what attention computes.
    precision: Precision,
}

impl<B: BertBackend> EncoderLayer<B> {
    pub fn load(config: &BertConfig, index: usize, weights: &mut Weights<'_, B>) -> Result<Self, WeightError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("bert.encoder.layer.{index}.{part}");
        let (key, value) = (name("attention.self.key"), name("attention.self.value"));
        // The last layer runs at the masks alone. In half precision they are few enough to stay f32 from there on.
        let precision = match weights.precision() {
            Precision::F16 if index + 1 == config.num_hidden_layers => Precision::F32,
            other => other,
        };
        Ok(Self {
            query: weights.linear(&name("attention.self.query"), hidden, hidden)?,
            key_value: weights.stacked_linear(&[&key, &value], hidden, hidden)?,
            after_attention: AfterAttention {
                attention_output: weights.linear(&name("attention.output.dense"), hidden, hidden)?,
                attention_norm: weights.layer_norm(
                    &name("attention.output.LayerNorm"),
                    hidden,
                    config.layer_norm_eps,
                )?,
                intermediate: weights.linear(&name("intermediate.dense"), inner, hidden)?,
                hidden_act: config.hidden_act,
                output: weights.linear(&name("output.dense"), hidden, inner)?,
                output_norm: weights.layer_norm(&name("output.LayerNorm"), hidden, config.layer_norm_eps)?,
            },
            heads: config.num_attention_heads,
            precision,
        })
    }

    /// The new hidden states of the rows `asking` `[query rows, hidden]`, which attend to `all`
    /// `[token rows, hidden]` within their spans. Everywhere but in the last layer the two are the same.
    pub fn forward(&self, asking: Tensor<B, 2>, all: Tensor<B, 2>, spans: &B::Segments) -> Tensor<B, 2> {
        let attended = B::attend(
            asking.clone(),
            all,
            &self.query,
            &self.key_value,
            spans,
            self.heads,
            self.precision,
        );
        B::after_attention(attended, asking, &self.after_attention)
    }
}
