//! Exit codes: 2 for flags and variables that are not valid, 1 for other failures.

use std::error::Error;
use std::process::ExitCode;

use cloze::OpenError;
#[cfg(feature = "gpu")]
use cloze::backend::gpu::GpuError;
use cloze::lm::LoadError;

/// The exit code of clap for flags that are not valid.
pub const EXIT_USAGE: u8 = 2;

/// A flag or a variable with a value that is not valid; the text names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The exit code of a command that failed.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let is_usage = error.is::<UsageError>()
        || error.downcast_ref().is_some_and(is_usage_of_load)
        || error.downcast_ref().is_some_and(|error| match error {
            OpenError::Load(error) => is_usage_of_load(error),
            OpenError::TextLongerThanBatch { .. } => true,
            OpenError::Checkpoint(_) | OpenError::WarmUp(_) | OpenError::Threads(_) => false,
        });
    match is_usage {
        true => ExitCode::from(EXIT_USAGE),
        false => ExitCode::FAILURE,
    }
}

/// True if another flag is needed; false if the same flags may do on another machine or with other files.
fn is_usage_of_load(error: &LoadError) -> bool {
    match error {
        LoadError::Precision { .. } | LoadError::TooManyWorkers { .. } | LoadError::WorkersOnGpu(_) => true,
        #[cfg(feature = "gpu")]
        LoadError::Gpu(GpuError::NoSuchAdapter { .. }) => true,
        _ => false,
    }
}
