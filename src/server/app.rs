//! The dependencies of every handler.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::lm::ModelInfo;
use crate::pipeline::Pipeline;

use super::options::Options;
use super::state::State;

/// The dependencies of every handler.
pub struct App {
    pub pipeline: Arc<Pipeline>,
    /// Upper limit from the head of a request to its answer; a client can shorten it.
    pub request_timeout: Duration,
    pub body_bytes_max: usize,
    pub about: About,
    pub options: Options,
    pub state: State,
    /// The OpenAPI document, once it was asked for: filling it in takes milliseconds.
    pub openapi: OnceLock<Arc<str>>,
}

/// Names of the model and the device, for `/info`, `/metrics`, the web page and the protocols.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the model in paths; contains no slash.
    pub model_name: String,
    /// Name of the model on the hub, such as `org/model`: a second name in paths.
    pub hub_name: Option<String>,
    /// True for the demo model inside the binary.
    pub is_demo: bool,
    pub model: ModelInfo,
    /// Backend and device in words, such as `cpu (ndarray), 2 threads`.
    pub device: String,
    /// `cpu` or `gpu`.
    pub backend: String,
    /// Compute precision: `f32`, `f16`, `bf16` or `int8`.
    pub dtype: String,
}

impl App {
    /// True if a new request would be answered: the model works, requests get through, and the server is
    /// not draining.
    pub fn is_ready(&self) -> bool {
        self.pipeline.is_ready() && !self.state.is_draining()
    }
}
