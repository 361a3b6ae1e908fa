//! Adds to an error of the library the flag or the environment variable that helps. The library itself knows no flags.

use std::error::Error;

use cloze::checkpoint::CheckpointError;
use cloze::hub::HubError;
use cloze::lm::LoadError;

/// The text of an error for the user: one sentence, with advice where there is any.
pub fn message(error: &(dyn Error + 'static)) -> String {
    match advice(error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return for_load(error);
    }
    if let Some(error) = error.downcast_ref() {
        return for_checkpoint(error);
    }
    error.downcast_ref().and_then(for_hub)
}

fn for_load(error: &LoadError) -> Option<String> {
    match error {
        LoadError::Checkpoint(error) => for_checkpoint(error),
        _ => None,
    }
}

fn for_checkpoint(error: &CheckpointError) -> Option<String> {
    match error {
        CheckpointError::Hub(error) => for_hub(error),
        CheckpointError::NotAFolder { .. } => Some("pass the folder with --model".to_owned()),
        _ => None,
    }
}

fn for_hub(error: &HubError) -> Option<String> {
    let advice = match error {
        HubError::NoHome => "set HF_HOME to a folder",
        HubError::Offline { .. } => "unset HF_HUB_OFFLINE, or pass the model's folder with --model",
        HubError::Tls(_) => {
            "download the model on another machine (hf download ID --local-dir DIR) and pass --model DIR"
        }
        HubError::Unreachable { .. } => {
            "download the model on another machine (hf download ID --local-dir DIR) and pass --model DIR, or set \
             HF_ENDPOINT to a mirror"
        }
        HubError::NoModel { .. } => "check the spelling, or set HF_TOKEN if the model is private",
        HubError::BadToken { .. } => "set HF_TOKEN to a token that can read it",
        HubError::Gated { .. } => "set HF_TOKEN to a token of an account that has accepted it",
        HubError::NoRevision { .. } => "--revision takes a branch, a tag or a commit of the model",
        HubError::Disk { .. } => "HF_HOME or HF_HUB_CACHE sets another folder for downloads",
        HubError::NoFile { .. }
        | HubError::Response { .. }
        | HubError::Interrupted { .. }
        | HubError::WrongHash { .. } => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
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
                },
                "; unset HF_HUB_OFFLINE, or pass the model's folder with --model",
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
    fn other_errors_are_left_as_they_are() {
        assert_eq!(message(&*Box::<dyn Error>::from("a sentence")), "a sentence");
        let missing = CheckpointError::Config("no".to_owned());
        assert_eq!(message(&missing), "config.json: no");
        let file = CheckpointError::NotAFolder { path: "x".to_owned() };
        assert!(message(&file).ends_with("; pass the folder with --model"));
    }
}
