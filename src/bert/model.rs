//! The whole of BERT: embeddings, encoder, head.

use burn::tensor::Tensor;

use crate::backend::{BertBackend, Precision, plain};

use super::embeddings::Embeddings;
use super::encoder::EncoderLayer;
use super::head::{MaskedLmHead, is_tied};
use super::weights::{WeightError, WeightSource, Weights};
use super::{BertConfig, PackedBatch};

/// BERT with its masked-language-model head, its weights on one device of backend `B`.
pub struct Bert<B: BertBackend> {
    embeddings: Embeddings<B>,
    layers: Vec<EncoderLayer<B>>,
    head: MaskedLmHead<B>,
}

impl<B: BertBackend> Bert<B> {
    /// Takes the weights out of `source`, tensor by tensor, and prepares them on `device` in `precision`.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen or unreadable.
    pub fn load(
        config: &BertConfig,
        source: &mut dyn WeightSource,
        device: &B::Device,
        precision: Precision,
    ) -> Result<Self, WeightError> {
        let tied = is_tied(config, source)?;
        let mut weights = Weights::new(source, device, precision);
        let embeddings = Embeddings::load(config, tied, &mut weights)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| EncoderLayer::load(config, index, &mut weights))
            .collect::<Result<_, _>>()?;
        let head = MaskedLmHead::load(config, tied, &mut weights)?;
        Ok(Self {
            embeddings,
            layers,
            head,
        })
    }

    /// Hidden states of the last layer at the batch's masks, `[masks, hidden_size]`.
    ///
    /// The last layer computes keys and values for all tokens and everything else for the masks alone.
    ///
    /// # Panics
    /// When the batch has no mask, or the model has no layer.
    pub fn mask_states(&self, batch: &PackedBatch) -> Tensor<B, 2> {
        let everywhere = batch.all_tokens();
        let (last, layers) = self.layers.split_last().expect("a BERT has layers");
        let mut hidden = self.embeddings.forward(batch, &self.head.decoder);
        for layer in layers {
            hidden = layer.forward(hidden.clone(), hidden, &everywhere);
        }
        let positions: Vec<u32> = batch.queries().iter().map(|query| query.position as u32).collect();
        let asking = plain::select_rows(&hidden, &positions);
        last.forward(asking, hidden, &batch.masks_only())
    }

    /// Logits over the vocabulary, `[rows, vocab_size]`, of hidden states `[rows, hidden_size]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head.forward(hidden)
    }
}
