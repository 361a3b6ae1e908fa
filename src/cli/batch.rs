//! Flags that limit batches.

use std::time::Duration;

use clap::{Args, ValueEnum};
use cloze::engine::Limits;
use cloze::{BatchTimeout, Builder, Cloze, WarmUpExtent};

use super::headings::{BATCHING, HARDWARE};
use super::progress::WarmUpProgress;
use super::values::{BATCH_SIZE_MAX, TIME_LIMIT_MS_MAX, TOKENS_MAX, within};

/// Flags of every command that computes batches.
#[derive(Debug, Args)]
pub struct BatchArguments {
    /// Most tokens that are computed at once, and so the most tokens of one text
    ///
    /// Raise it for models that take longer texts, and for throughput on a GPU; lower it to bound the time of a batch. Each
    /// mask counts as further tokens, as many as take the same time.
    #[arg(long, env = "CLOZE_MAX_BATCH_TOKENS", default_value = "2048", value_name = "TOKENS",
          value_parser = within::<usize>(1..=TOKENS_MAX), help_heading = BATCHING)]
    pub max_batch_tokens: usize,

    /// Most texts of a batch
    ///
    /// Lower it to bound the time that a text waits for the batch before it.
    #[arg(long, env = "CLOZE_MAX_BATCH_SIZE", default_value = "64", value_name = "TEXTS",
          value_parser = within::<usize>(1..=BATCH_SIZE_MAX), help_heading = BATCHING)]
    pub max_batch_size: usize,

    /// Most tokens of a text; a longer text gets status 422 [default: the model's limit]
    ///
    /// Lower it to bound the cost of one text.
    #[arg(long, env = "CLOZE_MAX_INPUT_TOKENS", value_name = "TOKENS",
          value_parser = within::<usize>(1..=TOKENS_MAX), help_heading = BATCHING)]
    pub max_input_tokens: Option<usize>,

    /// Batches computed before the first request
    ///
    /// A GPU compiles kernels for each batch size: full takes up to minutes before the server listens; set it to short
    /// to listen at once and let the first requests wait. On the CPU both are one batch.
    #[arg(long, env = "CLOZE_WARM_UP", value_enum, ignore_case = true, default_value = "full", help_heading = HARDWARE)]
    pub warm_up: WarmUp,

    /// Time limit of a batch: a device that takes longer counts as hung, and the process exits; 0: no limit [default:
    /// 60000 on a GPU; 0 on the CPU, on a software driver, and with --warm-up short]
    ///
    /// Lower it so that a supervisor restarts a hung GPU sooner; raise it if batches of your model take as long.
    #[arg(long, env = "CLOZE_BATCH_TIMEOUT_MS", value_name = "MS",
          value_parser = within::<u64>(0..=TIME_LIMIT_MS_MAX), help_heading = HARDWARE)]
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

impl From<WarmUp> for WarmUpExtent {
    fn from(warm_up: WarmUp) -> Self {
        match warm_up {
            WarmUp::Full => Self::Full,
            WarmUp::Short => Self::Short,
        }
    }
}

impl BatchArguments {
    /// A builder with these settings, and the queue of `queue`.
    pub fn builder(&self, queue: Limits) -> Builder {
        let mut progress = WarmUpProgress::default();
        let builder = Cloze::builder()
            .limits(Limits {
                batch_tokens_max: self.max_batch_tokens,
                batch_size_max: self.max_batch_size,
                ..queue
            })
            .warm_up(self.warm_up.into())
            .batch_timeout(match self.batch_timeout_ms {
                None => BatchTimeout::Auto,
                Some(0) => BatchTimeout::Never,
                Some(ms) => BatchTimeout::After(Duration::from_millis(ms)),
            })
            .on_warm_up(move |done, sizes| progress.reached(done, sizes));
        match self.max_input_tokens {
            None => builder,
            Some(tokens) => builder.tokens_max(tokens),
        }
    }
}
