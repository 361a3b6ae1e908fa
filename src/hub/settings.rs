//! Settings of the hub client, from the environment variables of the hub's own tools.

use std::path::PathBuf;

use super::HubError;

/// Endpoint, access token and cache folder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `HF_ENDPOINT`: scheme and host, without a trailing slash.
    pub endpoint: String,
    /// `HF_TOKEN`, or the content of the token file.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `hub` under `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_HUB_OFFLINE`: no network access.
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
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.or_else(|| Some(home?.join("token")));
        // The token file is optional.
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file?).ok());
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache: cache.ok_or(HubError::NoHome)?,
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        })
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
}
