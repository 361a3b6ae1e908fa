//! Fill-mask: the contract of transformers' `FillMaskPipeline`, apart from the forward pass.
//!
//! [`Task::plan`](super::Task::plan) turns a [`Request`] into a [`Plan`], whose sequences go to the model;
//! with the model's scores the plan becomes an [`Answer`], whose predictions [`TaskModel`](super::TaskModel) decodes:
//! all, or one by one.

mod answer;
mod mode;
mod plan;
mod scoring;
mod task;
#[cfg(test)]
mod tests;

use crate::text::LengthRule;

pub use super::InputError;
pub(super) use answer::sort_scores;
pub use answer::{Answer, Index, Prediction, TextAnswer};
pub use mode::{JointOptions, Mode, Order, Which, WordMethod};
pub use plan::Plan;
pub use scoring::{TARGET_BYTES_MAX, TARGETS_MAX, TOP_K_DEFAULT};

/// Texts with masks, and how to answer them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub parameters: Parameters,
}

/// The optional parameters of a request; `None` means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Predictions for each mask.
    pub top_k: Option<usize>,
    /// Score these words alone.
    pub targets: Option<Vec<String>>,
    /// The treatment of texts over the limit.
    pub length: LengthRule,
    /// Scores are a softmax over the targets alone.
    pub renormalize: bool,
    pub mode: Mode,
}
