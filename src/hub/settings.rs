//! Settings of the hub client, from the environment variables of the hub's own tools.

use std::path::PathBuf;

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
}

const ENDPOINT: &str = "https://huggingface.co";

impl Settings {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`HubError::NoHome`] if no variable sets the cache folder and the user has no home folder.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let either = |name: &str, former: &str| variable(name).or_else(|| variable(former));
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
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache: cache.ok_or(HubError::NoHome)?,
            offline: either("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE").is_some_and(|value| is_true(&value)),
        })
    }
}

/// A path, with `~` at its beginning replaced by the user's home folder.
fn path(value: String) -> PathBuf {
    let path = PathBuf::from(value);
    let rest = path.strip_prefix("~").ok().map(PathBuf::from);
    match rest.zip(std::env::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => path,
    }
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
