//! Tasks: which sequences a request sends to the model, and how the model's scores become its answer.

pub mod fill_mask;
mod notes;

pub use notes::{Notes, ReplacedTargets};
