//! Flags of the HTTP server: access, TLS, connection limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cloze::server::{
    AllowedHosts, ApiKey, ConnectionLimits, InvalidHost, InvalidOrigin, Options, Origins, Tls, TlsError, TlsFile,
};

use crate::cli::ranges::{CONNECTIONS_MAX, TIME_LIMIT_MS_MAX, within};

/// Flags of `cloze serve` for HTTP.
#[derive(Args)]
pub struct HttpArguments {
    /// Key that requests must send as "Authorization: Bearer KEY"; health checks and the page's files need none. Prefer
    /// the variable: other users of the machine can read command lines
    #[arg(long, env = "CLOZE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Allow GET /metrics without the key
    #[arg(long, env = "CLOZE_METRICS_WITHOUT_KEY")]
    metrics_without_key: bool,

    /// Origin whose pages may send requests from a browser, such as https://example.org, or * for any; may be repeated
    #[arg(long, env = "CLOZE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,

    /// Name under which clients reach a server that listens on a loopback address, such as that of a proxy in front, or
    /// * for any; without it, localhost, IP addresses and names without a dot are answered; may be repeated
    #[arg(long, env = "CLOZE_ALLOWED_HOST", value_name = "NAME", value_delimiter = ',')]
    allowed_host: Vec<String>,

    /// Serve HTTPS with this certificate chain: PEM file, the server's certificate first; SIGHUP reloads it
    #[arg(long, env = "CLOZE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate: PEM file without a password
    #[arg(long, env = "CLOZE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Maximum number of open connections; a further one replaces the one that has been idle longest, or waits
    #[arg(long, env = "CLOZE_MAX_CONNECTIONS", default_value = "4096", value_name = "N",
          value_parser = within::<usize>(1..=CONNECTIONS_MAX))]
    pub max_connections: usize,

    /// Time limit for the head of a request, and for the TLS handshake
    #[arg(long, env = "CLOZE_HEAD_TIMEOUT_MS", default_value = "20000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    head_timeout_ms: u64,

    /// Time limit for an idle connection between two requests
    #[arg(long, env = "CLOZE_IDLE_TIMEOUT_MS", default_value = "75000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    idle_timeout_ms: u64,

    /// Time limit for a client to read its response; a long response gets one more second per 64 KiB read
    #[arg(long, env = "CLOZE_WRITE_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    write_timeout_ms: u64,
}

/// Omits the key.
impl std::fmt::Debug for HttpArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpArguments")
            .field("cors_origin", &self.cors_origin)
            .finish_non_exhaustive()
    }
}

impl HttpArguments {
    /// The server's options.
    pub fn options(&self) -> Result<Options, String> {
        let tls = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls = tls.map(|(certificate, key)| Tls::read(certificate, key).map(Arc::new));
        let api_key = self.api_key.as_deref().map(ApiKey::new).transpose();
        Ok(Options {
            api_key: api_key.map_err(|error| format!("--api-key: {error}"))?,
            metrics_without_key: self.metrics_without_key,
            cors_origins: Origins::new(&self.cors_origin).map_err(|error| cors_advice(&error))?,
            allowed_hosts: AllowedHosts::new(&self.allowed_host).map_err(|error| host_advice(&error))?,
            tls: tls.transpose().map_err(|error| tls_advice(&error))?,
            connections: ConnectionLimits {
                connections_max: self.max_connections,
                head_timeout: Duration::from_millis(self.head_timeout_ms),
                idle_timeout: Duration::from_millis(self.idle_timeout_ms),
                write_timeout: Duration::from_millis(self.write_timeout_ms),
            },
        })
    }
}

fn cors_advice(InvalidOrigin(origin): &InvalidOrigin) -> String {
    format!("--cors-origin \"{origin}\" is not an origin; write it as https://example.org, or * for all")
}

fn host_advice(InvalidHost(host): &InvalidHost) -> String {
    format!("--allowed-host \"{host}\" is not the name of a host; write it as cloze.example.org, or * for any")
}

fn tls_advice(error: &TlsError) -> String {
    let flag = match error.file() {
        TlsFile::Certificate => "--tls-cert",
        TlsFile::Key => "--tls-key",
    };
    format!("{flag}: {error}")
}
