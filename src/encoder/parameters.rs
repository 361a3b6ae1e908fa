//! The parameters of an encoder by their role. A family gives each its names in checkpoints.

use std::fmt;

/// One tensor of an encoder, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parameter {
    WordEmbeddings,
    PositionEmbeddings,
    TokenTypeEmbeddings,
    TaskTypeEmbeddings,
    EmbeddingNorm(Part),
    /// The dense layer from the width of the embeddings to that of the layers.
    EmbeddingProjection(Part),
    /// The biases of attention by bucket of distance, `[buckets, heads]`; all layers share it.
    RelativeBias,
    /// A parameter of the encoder layer with this index.
    Layer(usize, LayerModule, Part),
    /// The normalization after the last layer.
    FinalNorm(Part),
    /// The dense layer of the head, before the decoder.
    HeadDense(Part),
    HeadNorm(Part),
    /// The decoder's own weight. A tied decoder has none.
    Decoder,
    DecoderBias,
}

impl Parameter {
    /// True for parameters of the masked-language-model head.
    pub fn is_of_head(self) -> bool {
        matches!(
            self,
            Self::HeadDense(_) | Self::HeadNorm(_) | Self::Decoder | Self::DecoderBias
        )
    }
}

/// A module of an encoder layer, in the order of the forward pass of a post-norm layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerModule {
    Query,
    Key,
    Value,
    AttentionOutput,
    AttentionNorm,
    /// The factor of [`FeedForwardUp`](Self::FeedForwardUp) in a gated block, before its activation.
    FeedForwardGate,
    /// From the hidden width to the intermediate one.
    FeedForwardUp,
    FeedForwardDown,
    OutputNorm,
}

impl LayerModule {
    pub const ALL: [Self; 9] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::AttentionNorm,
        Self::FeedForwardGate,
        Self::FeedForwardUp,
        Self::FeedForwardDown,
        Self::OutputNorm,
    ];
}

/// A part of a dense layer or of a layer normalization, displayed as checkpoints spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Weight,
    Bias,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        })
    }
}
