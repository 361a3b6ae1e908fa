//! Flags that limit batches.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cloze::lm::DeviceInfo;

/// Flags of every command that computes batches.
#[derive(Debug, Args)]
pub struct BatchArguments {
    /// Maximum number of tokens in a batch
    #[arg(long, env = "CLOZE_MAX_BATCH_TOKENS", default_value = "2048", value_name = "TOKENS")]
    pub max_batch_tokens: NonZeroUsize,

    /// Maximum number of texts in a batch
    #[arg(long, env = "CLOZE_MAX_BATCH_SIZE", default_value = "64", value_name = "TEXTS")]
    pub max_batch_size: NonZeroUsize,

    /// Maximum number of tokens in a text [default: the model's maximum]
    #[arg(long, env = "CLOZE_MAX_INPUT_TOKENS", value_name = "TOKENS")]
    pub max_input_tokens: Option<NonZeroUsize>,

    /// Batches computed before the first request; a GPU compiles kernels for each batch size
    #[arg(long, env = "CLOZE_WARM_UP", value_enum, default_value = "full")]
    pub warm_up: WarmUp,

    /// Time limit of a batch; when it is exceeded, the device is considered hung and the process exits. 0 disables the
    /// limit [default: 60000 on a GPU; 0 on the CPU, on a software driver, and with --warm-up short]
    #[arg(long, env = "CLOZE_BATCH_TIMEOUT_MS", value_name = "MS")]
    pub batch_timeout_ms: Option<u64>,
}

/// `--warm-up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WarmUp {
    /// Every batch size that the GPU compiles kernels for; one batch on the CPU
    Full,
    /// One batch; the first batch of each other size waits for compilation
    Short,
}

/// A GPU computes a batch in milliseconds.
const GPU_BATCH_TIMEOUT: Duration = Duration::from_secs(60);

impl BatchArguments {
    /// Time limit of a batch; `None` if there is none.
    pub fn batch_timeout(&self, device: &DeviceInfo) -> Option<Duration> {
        match (self.batch_timeout_ms, self.warm_up) {
            (Some(0), _) => None,
            (Some(ms), _) => Some(Duration::from_millis(ms)),
            (None, WarmUp::Full) => device.may_hang().then_some(GPU_BATCH_TIMEOUT),
            (None, WarmUp::Short) => None,
        }
    }

    /// Maximum number of tokens in a text: at most `model_max` and at most the size of a batch.
    pub fn max_input_tokens(&self, model_max: usize) -> Result<usize, String> {
        let batch_max = usize::from(self.max_batch_tokens);
        match self.max_input_tokens.map(usize::from) {
            None => Ok(batch_max.min(model_max)),
            Some(tokens) if tokens > batch_max => Err(format!(
                "--max-input-tokens is {tokens}, more than a batch can hold (--max-batch-tokens is {batch_max})"
            )),
            Some(tokens) => Ok(tokens),
        }
    }
}
