//! `EncoderSpec`: the sizes and options of one encoder, independent of how its family spells them.

use crate::backend::{Activation, NormKind, RotaryPairing};

use super::{LayerModule, Parameter, Part};

/// The sizes and options of an encoder with a masked-language-model head.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Rows of the word embeddings and of the decoder.
    pub vocab_size: usize,
    /// Width of the embeddings; another width than `hidden_size` needs `embedding_projection`.
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub positions: PositionEmbeddings,
    /// Rotary position embeddings of queries and keys.
    pub rotary: Option<RotarySpec>,
    /// Layers whose tokens attend to their neighbours alone.
    pub local_attention: Option<LocalAttention>,
    /// A table that is added to the scores of attention, by the distance of query and key.
    pub relative_bias: Option<RelativeBiasSpec>,
    /// ESM's token dropout.
    pub mask_scaling: Option<MaskScaling>,
    /// Rows of the token-type table, of which row 0 is added to every token; `None` for an encoder without one.
    pub token_types: Option<usize>,
    /// Rows of ERNIE's task-type table, of which row 0 is added to every token.
    pub task_types: Option<usize>,
    /// The sum of the embeddings is normalized.
    pub embedding_norm: bool,
    /// A dense layer after the embeddings, from `embedding_size` to `hidden_size`.
    pub embedding_projection: bool,
    /// Layers with weights of their own.
    pub layers: usize,
    /// The layers in the order of the forward pass; a layer may occur more than once.
    pub layer_order: Vec<usize>,
    /// Layers that a checkpoint names as one group; 1 for families without groups.
    pub layers_per_group: usize,
    /// Dense layers that a checkpoint stores as convolutions, and the number of their groups.
    pub convolution_groups: Vec<(LayerModule, usize)>,
    pub norm_placement: NormPlacement,
    /// The first layer has a normalization before attention; only a pre-norm encoder may lack it.
    pub first_attention_norm: bool,
    /// The feed-forward block is `down(activation(gate(x)) · up(x))`.
    pub gated: bool,
    pub biases: Biases,
    /// The output of the last layer is normalized.
    pub final_norm: bool,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Heads of keys and values in a checkpoint; divides `heads`. Each is repeated for as many query heads.
    pub key_value_heads: usize,
    /// Width of the feed-forward block between its two dense layers.
    pub intermediate_size: usize,
    pub activation: Activation,
    pub head: HeadSpec,
    pub norm_kind: NormKind,
    /// Added to the variance in every normalization.
    pub layer_norm_eps: f64,
}

/// Storing a logit, its exponential and the selection take about as long as so many multiplications (demo model, Zen 3).
const MULTIPLICATIONS_PER_LOGIT: usize = 256;

impl EncoderSpec {
    /// Multiplications of the head for one readout position, and the time for its logits, as a number of tokens for
    /// which the layers take as long; attention between tokens is left out.
    pub fn tokens_per_readout(&self) -> f32 {
        let key_value_size = self.hidden_size / self.heads * self.key_value_heads;
        let attention = 2 * self.hidden_size + 2 * key_value_size;
        let feed_forward = (2 + usize::from(self.gated)) * self.intermediate_size;
        let layers = self.hidden_size * (attention + feed_forward) * self.layer_order.len();
        let dense = usize::from(self.head.has_dense) * self.hidden_size;
        let head = self.head.size * (dense + self.vocab_size) + MULTIPLICATIONS_PER_LOGIT * self.vocab_size;
        head as f32 / layers as f32
    }
}

/// The head: a dense layer, an activation, a normalization, and the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSpec {
    /// False for a decoder alone.
    pub has_dense: bool,
    /// Outputs of the dense layer and columns of the decoder.
    pub size: usize,
    pub activation: Activation,
    /// The decoder is the word-embedding table.
    pub tied_decoder: bool,
}

/// Which dense layers and normalizations have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    pub attention: bool,
    /// The feed-forward block's first layers have a bias.
    pub feed_forward: bool,
    pub feed_forward_down: bool,
    pub norm: bool,
    pub head: bool,
    pub decoder: bool,
}

impl Biases {
    pub const ALL: Self = Self {
        attention: true,
        feed_forward: true,
        feed_forward_down: true,
        norm: true,
        head: true,
        decoder: true,
    };
}

/// Rotary position embeddings: <https://arxiv.org/abs/2104.09864>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotarySpec {
    pub pairing: RotaryPairing,
    /// The base of the frequencies.
    pub theta: f64,
    /// Divides every frequency.
    pub divisor: f64,
}

/// Layers whose tokens attend to their neighbours alone.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAttention {
    /// One for each layer: true for a local one.
    pub is_local: Vec<bool>,
    /// The largest distance of a token that is attended to.
    pub distance: usize,
    /// The base of the rotary frequencies in these layers.
    pub theta: f64,
}

/// A table of biases by bucket of distance, as in T5: <https://arxiv.org/abs/1910.10683>, section 2.1.
///
/// Half of the buckets are for keys after the query. In each half the first half has one bucket for each distance, and
/// the others grow by a factor, up to `distance_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeBiasSpec {
    pub buckets: usize,
    /// Distances from here on share the last bucket of their direction.
    pub distance_max: usize,
}

impl RelativeBiasSpec {
    /// The bucket of the distance from `query` to `key`, computed in f32 as transformers' MPNet does.
    pub fn bucket(self, query: usize, key: usize) -> usize {
        let half = self.buckets / 2;
        let exact = half / 2;
        let distance = query.abs_diff(key);
        let bucket = if distance < exact {
            distance
        } else {
            let exact = exact as f32;
            let growth = (distance as f32 / exact).ln() / (self.distance_max as f64 / f64::from(exact)).ln() as f32;
            let bucket = exact as usize + (growth * (half as f32 - exact)) as usize;
            bucket.min(half - 1)
        };
        if key > query { half + bucket } else { bucket }
    }
}

/// The word embedding of the mask token is zero, and the others are scaled by `kept / (1 - share of masks)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskScaling {
    pub mask_token: u32,
    pub kept: f64,
}

/// The positions of a sequence, with a learned table for them or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionEmbeddings {
    /// Rows of the table, or without a table the longest sequence.
    pub rows: usize,
    pub has_table: bool,
    pub rule: PositionRule,
}

/// Which row of the position table belongs to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionRule {
    /// The token's index in its sequence.
    Index,
    /// RoBERTa's rule: row `pad_token` for the padding token, also where a text spells it; for the other tokens
    /// `pad_token` and the number of such tokens so far.
    SkipPadding { pad_token: u32 },
}

/// Placement of a layer's normalizations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// After each residual: `norm(x + f(x))`.
    Post,
    /// Before each block: `x + f(norm(x))`.
    Pre,
}

impl PositionEmbeddings {
    /// Rows before the one of a sequence's first token.
    pub fn offset(self) -> usize {
        match self.rule {
            PositionRule::Index => 0,
            PositionRule::SkipPadding { pad_token } => pad_token as usize + 1,
        }
    }

    /// First row that a sequence can use.
    pub fn first_row(self) -> usize {
        match self.rule {
            PositionRule::Index => 0,
            PositionRule::SkipPadding { pad_token } => pad_token as usize,
        }
    }
}

impl EncoderSpec {
    /// The longest sequence in tokens.
    pub fn max_tokens(&self) -> usize {
        self.positions.rows - self.positions.offset()
    }

    /// Every parameter of the encoder, in the order of the forward pass. With a tied decoder the word embeddings stand
    /// for both.
    pub fn parameters(&self) -> Vec<Parameter> {
        let both = [Part::Weight, Part::Bias];
        let mut all = vec![Parameter::WordEmbeddings];
        all.extend(self.positions.has_table.then_some(Parameter::PositionEmbeddings));
        all.extend(self.token_types.map(|_| Parameter::TokenTypeEmbeddings));
        all.extend(self.task_types.map(|_| Parameter::TaskTypeEmbeddings));
        if self.embedding_norm {
            all.extend(both.map(Parameter::EmbeddingNorm));
        }
        if self.embedding_projection {
            all.extend(both.map(Parameter::EmbeddingProjection));
        }
        all.extend(self.relative_bias.map(|_| Parameter::RelativeBias));
        for layer in 0..self.layers {
            let modules = LayerModule::ALL.into_iter();
            all.extend(modules.flat_map(|module| both.map(|part| Parameter::Layer(layer, module, part))));
        }
        if self.final_norm {
            all.extend(both.map(Parameter::FinalNorm));
        }
        all.extend(both.map(Parameter::HeadDense));
        all.extend(both.map(Parameter::HeadNorm));
        all.extend((!self.head.tied_decoder).then_some(Parameter::Decoder));
        all.push(Parameter::DecoderBias);
        all.retain(|&parameter| self.has(parameter));
        all
    }

    /// False for a bias, a gate or a normalization that the encoder lacks. The loader takes zeros for an absent bias.
    pub fn has(&self, parameter: Parameter) -> bool {
        let Biases {
            attention,
            feed_forward,
            feed_forward_down,
            norm,
            head,
            decoder,
        } = self.biases;
        match parameter {
            Parameter::EmbeddingNorm(Part::Bias) | Parameter::FinalNorm(Part::Bias) => norm,
            Parameter::HeadDense(part) => self.head.has_dense && (part == Part::Weight || head),
            Parameter::HeadNorm(part) => self.head.has_dense && (part == Part::Weight || norm),
            Parameter::DecoderBias => decoder,
            Parameter::Layer(layer, module, part) => {
                let has_bias = match module {
                    LayerModule::Query | LayerModule::Key | LayerModule::Value | LayerModule::AttentionOutput => {
                        attention
                    }
                    LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => feed_forward,
                    LayerModule::FeedForwardDown => feed_forward_down,
                    LayerModule::AttentionNorm | LayerModule::OutputNorm => norm,
                };
                (part == Part::Weight || has_bias)
                    && (module != LayerModule::FeedForwardGate || self.gated)
                    && (module != LayerModule::AttentionNorm || layer > 0 || self.first_attention_norm)
            }
            _ => true,
        }
    }

    /// True if every layer is BERT's: post-norm, with attention to all tokens by their content alone.
    pub fn has_plain_layers(&self) -> bool {
        self.norm_placement == NormPlacement::Post
            && !self.gated
            && self.rotary.is_none()
            && self.local_attention.is_none()
            && self.relative_bias.is_none()
    }

    /// The base of the rotary frequencies of a layer.
    pub fn rotary_of(&self, layer: usize) -> Option<RotarySpec> {
        let rotary = self.rotary?;
        Some(match self.local_of(layer) {
            Some(local) => RotarySpec {
                theta: local.theta,
                ..rotary
            },
            None => rotary,
        })
    }

    /// The options of a layer's local attention; `None` if its tokens attend to all.
    pub fn local_of(&self, layer: usize) -> Option<&LocalAttention> {
        self.local_attention.as_ref().filter(|local| local.is_local[layer])
    }

    /// The shape of a parameter, rows before columns: a dense layer's weight is `[outputs, inputs]`.
    pub fn shape(&self, parameter: Parameter) -> Vec<usize> {
        let (hidden, embedding) = (self.hidden_size, self.embedding_size);
        match parameter {
            Parameter::WordEmbeddings => vec![self.vocab_size, embedding],
            Parameter::PositionEmbeddings => vec![self.positions.rows, embedding],
            Parameter::TokenTypeEmbeddings => vec![self.token_types.unwrap_or(0), embedding],
            Parameter::TaskTypeEmbeddings => vec![self.task_types.unwrap_or(0), embedding],
            Parameter::EmbeddingNorm(_) => vec![embedding],
            Parameter::RelativeBias => vec![self.relative_bias.map_or(0, |bias| bias.buckets), self.heads],
            Parameter::EmbeddingProjection(part) => dense(hidden, embedding, part),
            Parameter::FinalNorm(_) => vec![hidden],
            Parameter::HeadDense(part) => dense(self.head.size, hidden, part),
            Parameter::HeadNorm(_) => vec![self.head.size],
            Parameter::Decoder => vec![self.vocab_size, self.head.size],
            Parameter::DecoderBias => vec![self.vocab_size],
            Parameter::Layer(_, module, part) => match module {
                LayerModule::Query | LayerModule::Key | LayerModule::Value | LayerModule::AttentionOutput => {
                    dense(hidden, hidden, part)
                }
                LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => {
                    dense(self.intermediate_size, hidden, part)
                }
                LayerModule::FeedForwardDown => dense(hidden, self.intermediate_size, part),
                LayerModule::AttentionNorm | LayerModule::OutputNorm => vec![hidden],
            },
        }
    }

    /// Elements of a parameter.
    pub fn elements(&self, parameter: Parameter) -> usize {
        self.shape(parameter).iter().product()
    }
}

fn dense(outputs: usize, inputs: usize, part: Part) -> Vec<usize> {
    match part {
        Part::Weight => vec![outputs, inputs],
        Part::Bias => vec![outputs],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        let spec = RelativeBiasSpec {
            buckets: 32,
            distance_max: 128,
        };
        let begins = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for (bucket, &begin) in begins.iter().enumerate() {
            assert_eq!(spec.bucket(300, 300 - begin), bucket);
            if begin > 0 {
                assert_eq!(spec.bucket(300, 300 - begin + 1), bucket - 1);
                assert_eq!(spec.bucket(300, 300 + begin), 16 + bucket);
            }
        }
        for distance in [128, 300] {
            assert_eq!(spec.bucket(300, 300 - distance), 15);
            assert_eq!(spec.bucket(300, 300 + distance), 31);
        }
    }
}
