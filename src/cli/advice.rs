//! Adds to an error of the library the flag or the environment variable that helps. The library itself knows no flags.

use std::error::Error;

use cloze::OpenError;
#[cfg(feature = "gpu")]
use cloze::backend::gpu::GpuError;
use cloze::checkpoint::CheckpointError;
use cloze::hub::HubError;
use cloze::lm::{LoadError, WarmUpError};

use super::named;

/// The text of an error for the user: one sentence, with advice where there is any.
pub fn message(error: &(dyn Error + 'static)) -> String {
    named(&match advice(error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    })
}

fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return for_open(error);
    }
    if let Some(error) = error.downcast_ref() {
        return for_load(error);
    }
    if let Some(error) = error.downcast_ref() {
        return for_checkpoint(error);
    }
    error.downcast_ref().and_then(for_hub)
}

fn for_open(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Checkpoint(error) => for_checkpoint(error),
        OpenError::Load(error) => for_load(error),
        OpenError::WarmUp(WarmUpError::Batch { .. }) => {
            Some("a smaller --max-batch-tokens avoids this size".to_owned())
        }
        OpenError::TextLongerThanBatch { .. } => {
            Some("lower --max-input-tokens or raise --max-batch-tokens".to_owned())
        }
        OpenError::WarmUp(WarmUpError::Model { .. }) | OpenError::Threads(_) => None,
    }
}

fn for_load(error: &LoadError) -> Option<String> {
    match error {
        LoadError::Checkpoint(error) => for_checkpoint(error),
        #[cfg(feature = "gpu")]
        LoadError::Gpu(error) => for_gpu(error),
        LoadError::TooManyWorkers { .. } => Some("lower --workers or raise --threads".to_owned()),
        LoadError::TooLittleMemory { .. } => {
            Some("free memory, raise that limit, or choose --dtype bf16 or int8, which need less".to_owned())
        }
        LoadError::WorkersOnGpu(_) => Some("leave out --workers with --backend gpu".to_owned()),
        LoadError::Precision { .. } => Some("choose one of them with --dtype".to_owned()),
        LoadError::Device { .. } | LoadError::Threads(_) | LoadError::NotBuilt(_) => None,
    }
}

#[cfg(feature = "gpu")]
fn for_gpu(error: &GpuError) -> Option<String> {
    let advice = match error {
        GpuError::NoAdapter { .. } => {
            "install a driver for Vulkan, Metal or DX12 (or Mesa's software driver), or use --backend cpu"
        }
        GpuError::NoSuchAdapter { .. } => "give --gpu-device the index or a part of the name of one of them",
        GpuError::NoF16 { .. } => "leave out --dtype, or choose f32",
        GpuError::TooLarge { .. } => "choose another GPU with --gpu-device, or use --backend cpu",
        GpuError::TooLittleMemory { .. } => {
            "choose another GPU with --gpu-device, free some of its memory, or use --backend cpu"
        }
        GpuError::NoThread { .. } => "raise the limit on the number of threads (ulimit -u)",
        GpuError::NoDevice { .. } | GpuError::Language(_) | GpuError::Load { .. } => return None,
    };
    Some(advice.to_owned())
}

fn for_checkpoint(error: &CheckpointError) -> Option<String> {
    match error {
        CheckpointError::Hub(error) => for_hub(error),
        CheckpointError::Converted { revision, .. } => Some(format!("pass --revision {revision}")),
        CheckpointError::NotAFolder { .. } => Some("pass the folder with --model".to_owned()),
        _ => None,
    }
}

fn for_hub(error: &HubError) -> Option<String> {
    let advice = match error {
        HubError::NoHome => "set HF_HOME to a folder",
        HubError::Offline { .. } => {
            "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it, set HF_HOME to the folder of another cache, or \
             pass the model's folder with --model"
        }
        HubError::Tls(_) => {
            "download the model on another machine (hf download ID --local-dir DIR) and pass DIR with --model"
        }
        HubError::Unreachable { .. } => {
            "download the model on another machine (hf download ID --local-dir DIR) and pass DIR with --model, or set \
             HF_ENDPOINT to a mirror"
        }
        HubError::NoModel { .. } => "check the spelling, or set HF_TOKEN if the model is private",
        HubError::BadToken { .. } => "set HF_TOKEN to a token that can read it",
        HubError::Gated { .. } => "set HF_TOKEN to a token of an account that has accepted it",
        HubError::NoRevision { .. } => "--revision takes a branch, a tag or a commit of the model",
        HubError::Disk { .. } => "HF_HOME or HF_HUB_CACHE sets another folder for downloads",
        HubError::NoFile { .. }
        | HubError::Variable { .. }
        | HubError::TooLarge { .. }
        | HubError::Invalid { .. }
        | HubError::Response { .. }
        | HubError::Interrupted { .. }
        | HubError::WrongHash { .. } => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use cloze::backend::Precision;
    use cloze::hub::CacheState;

    use super::*;

    fn boxed(error: impl Error + 'static) -> Box<dyn Error> {
        Box::new(error)
    }

    #[test]
    fn errors_of_the_hub_get_the_variable_or_flag_that_helps() {
        let name = || "tiny/bert".to_owned();
        let io = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for (error, advice) in [
            (HubError::NoHome, "; set HF_HOME"),
            (
                HubError::Offline {
                    name: name(),
                    cache: "/cache".to_owned(),
                    state: CacheState::Nothing,
                },
                "; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it, set HF_HOME to",
            ),
            (
                HubError::NoModel { name: name() },
                "; check the spelling, or set HF_TOKEN",
            ),
            (HubError::BadToken { name: name() }, "; set HF_TOKEN"),
            (
                HubError::Gated {
                    name: name(),
                    page: "https://hub/tiny/bert".to_owned(),
                },
                "; set HF_TOKEN",
            ),
            (
                HubError::NoRevision {
                    id: name(),
                    revision: "v9".to_owned(),
                },
                "; --revision takes",
            ),
            (
                HubError::Disk {
                    path: "/cache".to_owned(),
                    source: io(),
                },
                "; HF_HOME or HF_HUB_CACHE",
            ),
        ] {
            let plain = error.to_string();
            // However deep the error of the hub is, it gets its advice.
            let error = LoadError::Checkpoint(CheckpointError::Hub(error));
            let text = message(&*boxed(error));
            assert!(text.starts_with(&plain) && text.contains(advice), "{text}");
            assert!(!plain.contains("--") && !plain.contains("HF_"), "{plain}");
        }
    }

    #[test]
    fn errors_of_loading_get_the_flag_that_helps() {
        for (error, advice) in [
            (
                LoadError::TooManyWorkers { workers: 3, threads: 2 },
                "3 workers need a thread each, and there are 2; lower --workers or raise --threads",
            ),
            (LoadError::WorkersOnGpu(2), "; leave out --workers with --backend gpu"),
            (
                LoadError::Precision {
                    backend: "cpu",
                    precision: Precision::F16,
                    supported: &[Precision::F32, Precision::Bf16, Precision::Int8],
                },
                "the cpu backend cannot compute in f16; it supports f32, bf16 and int8; choose one of them with --dtype",
            ),
        ] {
            let plain = error.to_string();
            let text = message(&*boxed(error));
            assert!(text.starts_with(&plain) && text.ends_with(advice), "{text}");
            assert!(!plain.contains("--"), "{plain}");
        }
    }

    #[test]
    #[cfg(feature = "gpu")]
    fn errors_of_the_gpu_get_the_flag_that_helps() {
        let adapter = || "llvmpipe".to_owned();
        for (error, advice) in [
            (
                GpuError::NoAdapter {
                    apis: "Vulkan".to_owned(),
                },
                "; install a driver",
            ),
            (
                GpuError::NoSuchAdapter {
                    requested: "T4".to_owned(),
                    matches: 0,
                    found: "0: llvmpipe".to_owned(),
                },
                "; give --gpu-device",
            ),
            (GpuError::NoF16 { adapter: adapter() }, "; leave out --dtype"),
            (
                GpuError::TooLarge {
                    bytes: 2,
                    bytes_max: 1,
                    adapter: adapter(),
                },
                "; choose another GPU with --gpu-device",
            ),
            (
                GpuError::TooLittleMemory {
                    bytes: 1 << 20,
                    memory: None,
                    adapter: adapter(),
                },
                "; choose another GPU with --gpu-device",
            ),
        ] {
            let plain = error.to_string();
            let text = message(&*boxed(LoadError::Gpu(error)));
            assert!(text.starts_with(&plain) && text.contains(advice), "{text}");
            assert!(!plain.contains("--"), "{plain}");
        }
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        assert_eq!(message(&*Box::<dyn Error>::from("a sentence")), "a sentence");
        let missing = CheckpointError::Config {
            path: "config.json".to_owned(),
            reasons: vec!["no".to_owned()],
        };
        assert_eq!(message(&missing), "config.json: no");
        let file = CheckpointError::NotAFolder { path: "x".to_owned() };
        assert!(message(&file).ends_with("; pass the folder with --model"));
        let error = CheckpointError::Converted {
            error: Box::new(missing),
            revision: "refs/pr/7".to_owned(),
        };
        assert!(message(&error).ends_with("in safetensors format; pass --revision refs/pr/7"));
    }
}
