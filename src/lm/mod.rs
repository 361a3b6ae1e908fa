//! The seam between requests and models: above it nothing knows an architecture or a backend, below it nothing knows a
//! request.
//!
//! A [`MaskedLm`] takes a [`Batch`] of [`Sequence`]s and gives the log-probabilities that their [`Readout`]s select.
//! [`PretrainedModel`] opens a checkpoint, and its `load` puts the weights onto a backend and gives one model for each
//! worker.
//!
//! | file | subject |
//! |---|---|
//! | `batch` | sequences, readouts, scores; packing |
//! | `demand` | lets a model see that no request waits for a batch |
//! | `encoder_model` | an encoder on any backend as a `MaskedLm` |
//! | `reading` | reads from the device, and the scores of a forward pass |
//! | `pooled` | readouts that are pooled over a sequence |
//! | `cpu_worker` | one model shared by several workers, each with threads of its own |
//! | `device_model` | a model on a device of its own: no answer after a fault, no work while idle |
//! | `pretrained` | an opened checkpoint: family, tokenizer, weights not yet loaded |
//! | `load/` | the weights onto a backend, one file for each |
//! | `warm_up` | batches before the first request |
//! | `inspect` | contents of a checkpoint, and every reason to refuse it |

mod batch;
#[cfg(feature = "cpu")]
mod cpu_worker;
mod demand;
#[cfg(any(feature = "gpu", test))]
mod device_model;
mod encoder_model;
pub mod inspect;
mod load;
mod pooled;
mod pretrained;
mod reading;
mod warm_up;

use std::time::Duration;

pub use crate::backend::Pooling;
pub use batch::{Batch, Readout, Scores, Select, Sequence, TokenScore};
pub use demand::{Demand, DemandGuard};
pub use encoder_model::EncoderModel;
pub use load::{
    BackendKind, DeviceInfo, LoadError, LoadedModel, MemoryNeed, Placement, automatic_precision, load_model,
};
pub use pretrained::{PretrainedModel, check_config};
pub use warm_up::{WarmUp, WarmUpError};

/// A masked language model with its weights on a device.
pub trait MaskedLm: Send {
    /// Cost of one readout position as a number of tokens.
    fn tokens_per_readout(&self) -> f32 {
        0.0
    }

    /// Time without a batch after which [`rest`](Self::rest) is called.
    fn rest_after(&self) -> Option<Duration> {
        None
    }

    /// Lets an idle device stop its threads. The next batch ends the rest.
    fn rest(&mut self) {}

    /// Computes a batch: the scores of each sequence, in order.
    ///
    /// # Errors
    /// [`ModelError`] if the model's output cannot be trusted.
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError>;

    /// Launches the kernels of a batch, so that no later batch of its size waits for them to be compiled. Parts of the
    /// model that launch no others may be left out.
    ///
    /// # Errors
    /// As of [`predict`](Self::predict).
    fn warm_up(&mut self, batch: Batch) -> Result<(), ModelError> {
        self.predict(batch).map(drop)
    }
}

/// Reason why a batch has no scores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A logit was infinite or not a number: broken weights or a broken device.
    #[error("the model gave a value that is not a finite number")]
    NotFinite,
    /// The device's memory could not be read back.
    #[error("the result could not be read from the device: {0}")]
    Readback(String),
    /// No request waits for the batch any more, so the model stopped.
    #[error("no request waits for the batch")]
    Cancelled,
    /// The device is lost or broken, and the model with it.
    #[error("{0}")]
    Device(String),
}

impl ModelError {
    /// True if no later batch can succeed.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Device(_))
    }
}

/// Facts about a model that do not depend on where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// `model_type` of transformers, such as `bert`.
    pub family: &'static str,
    /// Class of transformers, such as `BertForMaskedLM`.
    pub architecture: &'static str,
    pub vocab_size: usize,
    /// The longest sequence in tokens, special tokens included.
    pub max_tokens: usize,
    /// Pooling of sparse vectors.
    pub pooling: Pooling,
}
