//! The sizes and choices that make one BERT differ from another.

use crate::backend::Activation;

/// What `config.json` says of the architecture, under the names that it uses there.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Entries of the vocabulary: rows of the word embeddings and of the decoder.
    pub vocab_size: usize,
    /// Width of a token's hidden state.
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer inside each encoder layer.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layers and of the head's transform.
    pub hidden_act: Activation,
    /// Added to the variance in every layer normalization.
    pub layer_norm_eps: f64,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token type embeddings; a text to fill in is always type 0.
    pub type_vocab_size: usize,
    /// Whether the decoder's weight is the word embedding table.
    pub tie_word_embeddings: bool,
}

impl BertConfig {
    /// Numbers in the largest weight that is kept in one piece.
    pub fn largest_weight(&self) -> usize {
        let rows = [
            self.vocab_size,
            self.intermediate_size,
            self.max_position_embeddings,
            // Key and value are kept as one.
            2 * self.hidden_size,
        ];
        rows.into_iter().max().unwrap_or(0) * self.hidden_size
    }

    /// Numbers in the tables that stay as they are in half precision: embeddings, and a decoder of its own.
    pub fn exact_tables(&self) -> usize {
        let decoders = usize::from(!self.tie_word_embeddings);
        (self.vocab_size * (1 + decoders) + self.max_position_embeddings) * self.hidden_size
    }
}
