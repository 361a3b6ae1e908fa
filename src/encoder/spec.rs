//! `EncoderSpec`: the sizes and options of one encoder, independent of how its family spells them.

use crate::backend::Activation;

use super::{LayerModule, Parameter, Part};

/// The sizes and options of an encoder with a masked-language-model head.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Rows of the word embeddings and of the decoder.
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub positions: PositionEmbeddings,
    /// Rows of the token-type table, of which row 0 is added to every token; `None` for an encoder without one.
    pub token_types: Option<usize>,
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Width of the feed-forward block between its two dense layers.
    pub intermediate_size: usize,
    pub activation: Activation,
    pub head_activation: Activation,
    /// Added to the variance in every layer normalization.
    pub layer_norm_eps: f64,
    /// The decoder is the word-embedding table.
    pub tied_decoder: bool,
}

/// A learned table of position embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionEmbeddings {
    pub rows: usize,
    /// Row of a sequence's first token.
    pub offset: usize,
}

impl EncoderSpec {
    /// The longest sequence in tokens.
    pub fn max_tokens(&self) -> usize {
        self.positions.rows - self.positions.offset
    }

    /// Every parameter of the encoder, in the order of the forward pass. With a tied decoder the word embeddings stand
    /// for both.
    pub fn parameters(&self) -> Vec<Parameter> {
        let both = [Part::Weight, Part::Bias];
        let mut all = vec![Parameter::WordEmbeddings, Parameter::PositionEmbeddings];
        all.extend(self.token_types.map(|_| Parameter::TokenTypeEmbeddings));
        all.extend(both.map(Parameter::EmbeddingNorm));
        for layer in 0..self.layers {
            let modules = LayerModule::ALL.into_iter();
            all.extend(modules.flat_map(|module| both.map(|part| Parameter::Layer(layer, module, part))));
        }
        all.extend(both.map(Parameter::HeadDense));
        all.extend(both.map(Parameter::HeadNorm));
        all.extend((!self.tied_decoder).then_some(Parameter::Decoder));
        all.push(Parameter::DecoderBias);
        all
    }

    /// The shape of a parameter, rows before columns: a dense layer's weight is `[outputs, inputs]`.
    pub fn shape(&self, parameter: Parameter) -> Vec<usize> {
        let (hidden, vocab) = (self.hidden_size, self.vocab_size);
        match parameter {
            Parameter::WordEmbeddings | Parameter::Decoder => vec![vocab, hidden],
            Parameter::PositionEmbeddings => vec![self.positions.rows, hidden],
            Parameter::TokenTypeEmbeddings => vec![self.token_types.unwrap_or(0), hidden],
            Parameter::DecoderBias => vec![vocab],
            Parameter::EmbeddingNorm(_) | Parameter::HeadNorm(_) => vec![hidden],
            Parameter::HeadDense(part) => dense(hidden, hidden, part),
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
