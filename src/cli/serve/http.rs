//! Flags about who may ask.

use clap::Args;
use cloze::server::{ApiKey, Options, Origins};

/// Flags of `cloze serve` about HTTP.
#[derive(Args)]
pub struct HttpArguments {
    /// A key that requests must carry as "Authorization: Bearer KEY"; health and the page's files need none. Better set
    /// by the variable: others on the machine can read flags
    #[arg(long, env = "CLOZE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Let GET /metrics need no key
    #[arg(long, env = "CLOZE_METRICS_WITHOUT_KEY")]
    metrics_without_key: bool,

    /// A site whose pages may ask from a browser, such as https://example.org, or * for all; may be repeated
    #[arg(long, env = "CLOZE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,
}

/// Without the key.
impl std::fmt::Debug for HttpArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpArguments")
            .field("cors_origin", &self.cors_origin)
            .finish_non_exhaustive()
    }
}

impl HttpArguments {
    /// What they mean to the server.
    pub fn options(&self) -> Result<Options, String> {
        let api_key = self.api_key.as_deref().map(ApiKey::new).transpose();
        Ok(Options {
            api_key: api_key.map_err(|error| format!("--api-key: {error}"))?,
            metrics_without_key: self.metrics_without_key,
            cors_origins: Origins::new(&self.cors_origin)?,
        })
    }
}
