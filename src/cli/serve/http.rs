//! Flags about HTTP: who may ask, and how long connections may take their time.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cloze::server::{ApiKey, ConnectionLimits, Options, Origins, Tls};

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

    /// Speak HTTPS: the server's certificate and those between it and its authority, in PEM form; read anew on SIGHUP
    #[arg(long, env = "CLOZE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, in PEM form without a password
    #[arg(long, env = "CLOZE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Open connections at most; a further one takes the place of the longest idle, or waits
    #[arg(long, env = "CLOZE_MAX_CONNECTIONS", default_value = "4096", value_name = "N")]
    pub max_connections: NonZeroU32,

    /// How long the head of a request may take to arrive, and the handshake of TLS before it
    #[arg(long, env = "CLOZE_HEAD_TIMEOUT_MS", default_value = "20000", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MS_MAX))]
    head_timeout_ms: u64,

    /// How long a connection may wait for its next request
    #[arg(long, env = "CLOZE_IDLE_TIMEOUT_MS", default_value = "75000", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MS_MAX))]
    idle_timeout_ms: u64,

    /// How long a client may take to read its answer; long answers get a second more for each 64 KiB read
    #[arg(long, env = "CLOZE_WRITE_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MS_MAX))]
    write_timeout_ms: u64,
}

const TIMEOUT_MS_MAX: u64 = 86_400_000;

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
        let tls = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls = tls.map(|(certificate, key)| Tls::read(certificate, key).map(Arc::new));
        let api_key = self.api_key.as_deref().map(ApiKey::new).transpose();
        Ok(Options {
            api_key: api_key.map_err(|error| format!("--api-key: {error}"))?,
            metrics_without_key: self.metrics_without_key,
            cors_origins: Origins::new(&self.cors_origin)?,
            tls: tls.transpose().map_err(|error| error.to_string())?,
            connections: ConnectionLimits {
                connections_max: self.max_connections.get() as usize,
                head_timeout: Duration::from_millis(self.head_timeout_ms),
                idle_timeout: Duration::from_millis(self.idle_timeout_ms),
                write_timeout: Duration::from_millis(self.write_timeout_ms),
            },
        })
    }
}
