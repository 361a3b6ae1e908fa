//! `EncoderSpec`: the sizes and options of one encoder, independent of how its family spells them.

use crate::backend::Activation;

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
    /// The output of the last layer is normalized.
    pub final_norm: bool,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Width of the feed-forward block between its two dense layers.
    pub intermediate_size: usize,
    pub activation: Activation,
    pub head: HeadSpec,
    /// Added to the variance in every layer normalization.
    pub layer_norm_eps: f64,
}

/// The head: a dense layer, an activation, a normalization, and the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSpec {
    /// Outputs of the dense layer and columns of the decoder.
    pub size: usize,
    pub activation: Activation,
    /// The decoder is the word-embedding table.
    pub tied_decoder: bool,
}

/// A learned table of position embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionEmbeddings {
    pub rows: usize,
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

/// Where a layer normalizes.
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
        let mut all = vec![Parameter::WordEmbeddings, Parameter::PositionEmbeddings];
        all.extend(self.token_types.map(|_| Parameter::TokenTypeEmbeddings));
        all.extend(self.task_types.map(|_| Parameter::TaskTypeEmbeddings));
        if self.embedding_norm {
            all.extend(both.map(Parameter::EmbeddingNorm));
        }
        if self.embedding_projection {
            all.extend(both.map(Parameter::EmbeddingProjection));
        }
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
        all
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
                LayerModule::FeedForwardUp => dense(self.intermediate_size, hidden, part),
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
