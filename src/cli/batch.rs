//! How much is computed at once.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use cloze::checkpoint::LoadedModel;

use super::warm_up::WarmUp;

/// Flags of every command that computes batches.
#[derive(Debug, Args)]
pub struct BatchArguments {
    /// Tokens computed at once at most
    #[arg(long, env = "CLOZE_MAX_BATCH_TOKENS", default_value = "2048", value_name = "TOKENS")]
    pub max_batch_tokens: NonZeroUsize,

    /// Texts computed at once at most
    #[arg(long, env = "CLOZE_MAX_BATCH_SIZE", default_value = "64", value_name = "TEXTS")]
    pub max_batch_size: NonZeroUsize,

    /// Tokens of one text at most [default: what the model can take]
    #[arg(long, env = "CLOZE_MAX_INPUT_TOKENS", value_name = "TOKENS")]
    pub max_input_tokens: Option<NonZeroUsize>,

    /// What runs before the first text; a GPU compiles something for each size of batch
    #[arg(long, env = "CLOZE_WARM_UP", value_enum, default_value = "full")]
    pub warm_up: WarmUp,

    /// How long a batch may take before the device counts as hung and the process ends; 0: as long as it likes [default:
    /// 60000 on a GPU; 0 on the CPU, a software driver, or with --warm-up short, which lets batches compile]
    #[arg(long, env = "CLOZE_BATCH_TIMEOUT_MS", value_name = "MS")]
    pub batch_timeout_ms: Option<u64>,
}

/// A card takes milliseconds.
const GPU_BATCH_TIMEOUT: Duration = Duration::from_secs(60);

impl BatchArguments {
    /// After which a batch will never come back.
    pub fn batch_timeout(&self, loaded: &LoadedModel) -> Option<Duration> {
        match (self.batch_timeout_ms, self.warm_up) {
            (Some(0), _) => None,
            (Some(ms), _) => Some(Duration::from_millis(ms)),
            (None, WarmUp::Full) => loaded.may_hang.then_some(GPU_BATCH_TIMEOUT),
            (None, WarmUp::Short) => None,
        }
    }

    /// The longest text, of a model that takes `model_max` tokens: no text may be longer than a batch.
    pub fn max_input_tokens(&self, model_max: usize) -> Result<usize, String> {
        let batch_max = usize::from(self.max_batch_tokens);
        match self.max_input_tokens.map(usize::from) {
            None => Ok(batch_max.min(model_max)),
            Some(asked) if asked > batch_max => Err(format!(
                "--max-input-tokens is {asked}, more than a batch may hold (--max-batch-tokens is {batch_max})"
            )),
            Some(asked) => Ok(asked),
        }
    }
}
