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
    match is_usage(error) {
        true => ExitCode::from(EXIT_USAGE),
        false => ExitCode::FAILURE,
    }
}

fn is_usage(error: &(dyn Error + 'static)) -> bool {
    error.is::<UsageError>()
        || error.downcast_ref().is_some_and(is_usage_of_load)
        || error.downcast_ref().is_some_and(|error| match error {
            OpenError::Load(error) => is_usage_of_load(error),
            OpenError::TextLongerThanBatch { .. } => true,
            OpenError::Checkpoint(_) | OpenError::WarmUp(_) | OpenError::Threads(_) => false,
        })
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

#[cfg(test)]
mod tests {
    use cloze::checkpoint::CheckpointError;

    use super::*;

    #[test]
    fn errors_that_another_flag_avoids_are_of_usage() {
        let precision = || LoadError::Precision {
            backend: "cpu",
            precision: cloze::backend::Precision::F16,
            supported: &[],
        };
        let file = || CheckpointError::NotAFolder { path: "x".to_owned() };
        let long = OpenError::TextLongerThanBatch {
            tokens_max: 2,
            batch_tokens_max: 1,
        };
        let errors: [(Box<dyn Error>, bool); 9] = [
            (UsageError("--host: no".to_owned()).into(), true),
            (precision().into(), true),
            (OpenError::Load(precision()).into(), true),
            (LoadError::TooManyWorkers { workers: 3, threads: 2 }.into(), true),
            (LoadError::WorkersOnGpu(2).into(), true),
            (long.into(), true),
            (LoadError::Checkpoint(file()).into(), false),
            (OpenError::Checkpoint(file()).into(), false),
            ("a sentence".into(), false),
        ];
        for (error, expected) in errors {
            assert_eq!(is_usage(&*error), expected, "{error}");
        }
    }

    #[test]
    #[cfg(feature = "gpu")]
    fn a_gpu_that_the_flag_does_not_name_is_of_usage_and_an_absent_one_is_not() {
        let unnamed = GpuError::NoSuchAdapter {
            requested: "T4".to_owned(),
            matches: 0,
            found: "none".to_owned(),
        };
        let absent = GpuError::NoAdapter {
            apis: "Vulkan".to_owned(),
        };
        assert!(is_usage(&LoadError::Gpu(unnamed)));
        assert!(!is_usage(&LoadError::Gpu(absent)));
    }
}
