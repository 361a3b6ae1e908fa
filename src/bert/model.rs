//! The whole of BERT: embeddings, encoder, head.

use burn::tensor::Tensor;

use crate::backend::{BertBackend, HostLists, Lists, Precision};

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
    /// Entries of the vocabulary.
    pub(super) vocab_size: usize,
    pub(super) device: B::Device,
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
            vocab_size: config.vocab_size,
            device: device.clone(),
        })
    }

    /// Hidden states of the last layer at the batch's masks, `[masks, hidden_size]`.
    ///
    /// # Panics
    /// When the batch has no mask, or the model has no layer.
    pub fn mask_states(&self, batch: &PackedBatch) -> Tensor<B, 2> {
        self.encode(&B::upload(self.lists(batch), &self.device))
    }

    /// What the device is told of a batch.
    pub(super) fn lists(&self, batch: &PackedBatch) -> HostLists {
        batch.lists(self.vocab_size, B::TOP_MAX, B::rows_computed)
    }

    /// [`mask_states`](Self::mask_states) of lists that are on the device.
    ///
    /// The last layer computes keys and values for all tokens and everything else for the masks alone.
    pub(super) fn encode(&self, lists: &Lists<B::Rows, B::Segments>) -> Tensor<B, 2> {
        let (last, layers) = self.layers.split_last().expect("a BERT has layers");
        let mut hidden = self.embeddings.forward(lists, &self.head.decoder);
        for layer in layers {
            hidden = layer.forward(hidden.clone(), hidden, &lists.everywhere);
        }
        let asking = B::select_rows(&hidden, &lists.mask_rows);
        last.forward(asking, hidden, &lists.masks_only)
    }

    /// Logits over the vocabulary, `[rows, vocab_size]`, of hidden states `[rows, hidden_size]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head.forward(hidden)
    }
}
