//! How much is computed at once.

use std::num::NonZeroUsize;

use clap::Args;

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
}

impl BatchArguments {
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
