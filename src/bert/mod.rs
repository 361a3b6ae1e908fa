//! BERT for masked language modelling, once, generic over the backend.
//!
//! The architecture is that of <https://arxiv.org/abs/1810.04805>: embeddings, post-norm encoder layers and
//! the masked-language-model head. It knows neither files nor text: weights come from a [`WeightSource`],
//! a batch comes as token ids ([`PackedBatch`]), and what leaves is a score for each wanted token. The
//! layers above see it through the object-safe [`MaskedLm`].

mod batch;
mod config;
mod embeddings;
mod encoder;
mod guard;
mod head;
mod masked_lm;
mod model;
#[cfg(feature = "cpu")]
mod on_threads;
mod tensors;
mod weights;

pub use batch::{MaskQuery, PackedBatch, Selection, TokenScore};
pub use config::BertConfig;
pub use guard::Guarded;
pub use head::is_tied;
pub use masked_lm::{Begun, MaskedLm, PredictError};
pub use model::Bert;
#[cfg(feature = "cpu")]
pub use on_threads::OnThreads;
pub use tensors::{TensorSpec, tensors};
pub use weights::{WeightError, WeightSource};
