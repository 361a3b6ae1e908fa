//! Settings of the hub client, from the environment variables of the hub's own tools.

use std::path::PathBuf;
use std::time::Duration;

use super::HubError;

/// Endpoint, access token and cache folder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `HF_ENDPOINT`: scheme and host, without a trailing slash.
    pub endpoint: String,
    /// `HF_TOKEN`, or `HUGGING_FACE_HUB_TOKEN`, or the content of the token file `HF_TOKEN_PATH`.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`: no network access.
    pub offline: bool,
    /// `HF_HUB_ETAG_TIMEOUT`: limit on the head of a response.
    pub metadata_timeout: Duration,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: limit on one read. A download that exceeds it is resumed on a new connection.
    pub read_timeout: Duration,
    /// A download that receives less than 64 KiB in this time ends with an error.
    pub stall_timeout: Duration,
}

const ENDPOINT: &str = "https://huggingface.co";
/// Limits on the head of a response and on one read.
const TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time limit that a variable sets: a day.
const SECONDS_MAX: u64 = 86_400;

impl Settings {
    /// The public hub without a token, and a cache in this folder.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            token: None,
            cache,
            offline: false,
            metadata_timeout: TIMEOUT,
            read_timeout: TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
        }
    }

    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`HubError::NoHome`] if no variable sets the cache folder and the user has no home folder;
    /// [`HubError::Variable`] for a time limit that is not a number of seconds.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let either = |name: &str, former: &str| variable(name).or_else(|| variable(former));
        let path = |value: String| path(&value, &variable);
        let home = variable("HF_HOME").map(path).or_else(|| {
            let caches = variable("XDG_CACHE_HOME").map(path);
            let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = either("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE").map(path);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = variable("HF_TOKEN_PATH").map(path);
        let token_file = token_file.or_else(|| Some(home?.join("token")));
        // The token file is optional.
        let token = either("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN");
        let token = token.or_else(|| std::fs::read_to_string(token_file?).ok());
        let token = token.map(|token| token.replace(['\r', '\n'], "").trim().to_owned());
        let without_token = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let seconds = |name: &'static str| match variable(name) {
            None => Ok(TIMEOUT),
            Some(value) => match value.trim().parse() {
                Ok(seconds @ 1..=SECONDS_MAX) => Ok(Duration::from_secs(seconds)),
                _ => Err(HubError::Variable { name, value }),
            },
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty() && !without_token),
            offline: either("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE").is_some_and(|value| is_true(&value)),
            metadata_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            read_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            ..Self::new(cache.ok_or(HubError::NoHome)?)
        })
    }
}

/// A path, with `~` at its beginning replaced by the user's home folder, and `$NAME` and `${NAME}` by variables.
fn path(value: &str, variable: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let path = PathBuf::from(expand(value, variable));
    let rest = path.strip_prefix("~").ok().map(PathBuf::from);
    match rest.zip(std::env::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => path,
    }
}

/// Replaces variables as Python's `os.path.expandvars` does: a variable that is not set stays as it is.
fn expand(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        let (name, tail) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some(braced) => braced,
            None => {
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !is_of_name(c)).unwrap_or(after.len()))
            }
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                expanded += &value;
                rest = tail;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded + rest
}

/// False if `HF_HUB_DISABLE_PROGRESS_BARS` says that downloads show no progress bar.
pub fn shows_progress() -> bool {
    !std::env::var("HF_HUB_DISABLE_PROGRESS_BARS").is_ok_and(|value| is_true(&value))
}

/// The values that the hub's tools accept as true.
fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Settings {
        let variables: std::collections::HashMap<_, _> = variables.iter().copied().collect();
        Settings::from(|name| variables.get(name).map(|value| (*value).to_owned())).unwrap()
    }

    #[test]
    fn environment_variables_are_read() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let hf_home = ("HF_HOME", home.path().to_str().unwrap());

        let settings = with(&[hf_home]);
        assert_eq!(settings.endpoint, "https://huggingface.co");
        assert_eq!(settings.cache, home.path().join("hub"));
        assert_eq!(settings.token.as_deref(), Some("hf_file"));
        assert!(!settings.offline);

        let settings = with(&[
            hf_home,
            ("HF_HUB_CACHE", "/elsewhere"),
            ("HF_TOKEN", "hf_variable"),
            ("HF_ENDPOINT", "http://mirror:8080/"),
            ("HF_HUB_OFFLINE", "YES"),
        ]);
        assert_eq!(settings.endpoint, "http://mirror:8080");
        assert_eq!(settings.cache, PathBuf::from("/elsewhere"));
        assert_eq!(settings.token.as_deref(), Some("hf_variable"));
        assert!(settings.offline);

        let settings = with(&[("XDG_CACHE_HOME", "/caches"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(settings.cache, PathBuf::from("/caches/huggingface/hub"));
        assert_eq!((settings.token, settings.offline), (None, false));
    }

    #[test]
    fn former_names_of_the_variables_are_read() {
        let settings = with(&[
            ("HUGGINGFACE_HUB_CACHE", "/former"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_former"),
            ("TRANSFORMERS_OFFLINE", "1"),
        ]);
        assert_eq!(settings.cache, PathBuf::from("/former"));
        assert_eq!((settings.token.as_deref(), settings.offline), (Some("hf_former"), true));
        let settings = with(&[
            ("HUGGINGFACE_HUB_CACHE", "/former"),
            ("HF_HUB_CACHE", "/new"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_former"),
            ("HF_TOKEN", "hf_new"),
            ("TRANSFORMERS_OFFLINE", "1"),
            ("HF_HUB_OFFLINE", "0"),
        ]);
        assert_eq!(settings.cache, PathBuf::from("/new"));
        assert_eq!((settings.token.as_deref(), settings.offline), (Some("hf_new"), false));
    }

    #[test]
    fn variables_in_paths_are_replaced() {
        for (value, expected) in [
            ("$DISK/hub", "/disk/hub"),
            ("/a/${DISK}b$NONE/$", "/a//diskb$NONE/$"),
            ("${DISK", "${DISK"),
        ] {
            let settings = with(&[("HF_HUB_CACHE", value), ("DISK", "/disk")]);
            assert_eq!(settings.cache, PathBuf::from(expected), "{value}");
        }
    }

    #[test]
    fn time_limits_and_the_implicit_token_are_read() {
        let settings = with(&[
            ("HF_HOME", "/none"),
            ("HF_TOKEN", "hf_variable"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
            ("HF_HUB_ETAG_TIMEOUT", "7"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "3"),
        ]);
        assert_eq!(settings.token, None);
        assert_eq!(settings.metadata_timeout, Duration::from_secs(7));
        assert_eq!(settings.read_timeout, Duration::from_secs(3));
        for value in ["soon", "0", "-1", "1e9", "99999999"] {
            let variable = |name: &str| match name {
                "HF_HOME" => Some("/none".to_owned()),
                "HF_HUB_DOWNLOAD_TIMEOUT" => Some(value.to_owned()),
                _ => None,
            };
            let error = Settings::from(variable).unwrap_err().to_string();
            assert!(
                error.contains("HF_HUB_DOWNLOAD_TIMEOUT") && error.contains(value),
                "{error}"
            );
        }
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = std::env::home_dir().unwrap();
        for (value, expected) in [
            ("~/models", home.join("models")),
            ("~", home.clone()),
            ("/a/~/b", PathBuf::from("/a/~/b")),
            ("~other/models", PathBuf::from("~other/models")),
        ] {
            assert_eq!(with(&[("HF_HUB_CACHE", value)]).cache, expected, "{value}");
        }
        assert_eq!(with(&[("HF_HOME", "~/hf")]).cache, home.join("hf/hub"));
    }
}
