//! Flags of the HTTP server: access, TLS, connection limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use cloze::server::{
    AllowedHosts, ApiKey, ConnectionLimits, InvalidHost, InvalidOrigin, Options, Origins, Tls, TlsError, TlsFile,
};

use crate::cli::headings::{HTTP, SECURITY};
use crate::cli::values::{CONNECTIONS_MAX, TIME_LIMIT_MS_MAX, switch, within};

/// Flags of `cloze serve` for HTTP.
#[derive(Args)]
pub struct HttpArguments {
    /// Key that requests must send as "Authorization: Bearer KEY"; health checks, the page and the API document need
    /// none
    ///
    /// Set it when other machines reach the server. Prefer the variable: other users of this machine can read command
    /// lines.
    #[arg(long, env = "CLOZE_API_KEY", value_name = "KEY", help_heading = SECURITY)]
    api_key: Option<String>,

    /// Answer GET /metrics without the key
    ///
    /// Set it if Prometheus cannot send the key. The variable takes 1, true, yes or on, and 0, false, no or off.
    #[arg(long, env = "CLOZE_METRICS_WITHOUT_KEY", value_parser = switch, help_heading = SECURITY)]
    metrics_without_key: bool,

    /// Certificate chain to serve HTTPS with: a PEM file, the server's certificate first
    ///
    /// Set it with --tls-key when no proxy in front ends TLS. SIGHUP reloads both files.
    #[arg(long, env = "CLOZE_TLS_CERT", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = SECURITY)]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate: a PEM file without a password
    ///
    /// Set it with --tls-cert.
    #[arg(long, env = "CLOZE_TLS_KEY", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = SECURITY)]
    tls_key: Option<PathBuf>,

    /// Origin whose pages may send requests from a browser, such as https://example.org, or * for any; may be repeated
    ///
    /// Set it for a web application of another origin; the variable takes several between commas.
    #[arg(long, env = "CLOZE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', help_heading = SECURITY)]
    cors_origin: Vec<String>,

    /// Host name that a server on a loopback address answers to, beside localhost, IP addresses and names without a
    /// dot, or * for any; may be repeated
    ///
    /// Set it to the name of a proxy on the same machine that passes its own name on; other names get status 421.
    #[arg(long, env = "CLOZE_ALLOWED_HOST", value_name = "NAME", value_delimiter = ',', help_heading = SECURITY)]
    allowed_host: Vec<String>,

    /// Most open connections; a further one waits until one of them ends
    ///
    /// Lower it where few file descriptors are allowed. For a connection that waits, the server closes the one that has
    /// been idle longest, or else one whose request arrives slowly.
    #[arg(long, env = "CLOZE_MAX_CONNECTIONS", default_value = "4096", value_name = "N",
          value_parser = within::<usize>(1..=CONNECTIONS_MAX), help_heading = HTTP)]
    pub max_connections: usize,

    /// Time limit for the head of a request (request line and headers), and for the TLS handshake before it
    ///
    /// Lower it if clients that send nothing keep others out.
    #[arg(long, env = "CLOZE_HEAD_TIMEOUT_MS", default_value = "20000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX), help_heading = HTTP)]
    head_timeout_ms: u64,

    /// Time that a connection may be idle between two requests
    ///
    /// Keep it above that of a load balancer in front, so that the server never closes a connection that is used again.
    #[arg(long, env = "CLOZE_IDLE_TIMEOUT_MS", default_value = "75000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX), help_heading = HTTP)]
    idle_timeout_ms: u64,

    /// Time that a client gets to read its answer; long answers get one more second for each 64 KiB read
    ///
    /// Raise it for clients on slow networks.
    #[arg(long, env = "CLOZE_WRITE_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX), help_heading = HTTP)]
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
    /// Checks the values, and that certificate and key are given together.
    ///
    /// # Errors
    /// A value that is not valid, or one of the two files.
    pub fn check(&self) -> Result<(), String> {
        self.api_key()?;
        self.cors_origins()?;
        self.allowed_hosts()?;
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err("--tls-cert needs --tls-key, the private key of the certificate".to_owned()),
            (None, Some(_)) => Err("--tls-key needs --tls-cert, the certificate of the key".to_owned()),
            _ => Ok(()),
        }
    }

    /// True if the server speaks HTTPS.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// True if requests need a key.
    pub fn has_key(&self) -> bool {
        self.api_key.is_some()
    }

    fn api_key(&self) -> Result<Option<ApiKey>, String> {
        let key = self.api_key.as_deref().map(ApiKey::new).transpose();
        key.map_err(|error| format!("--api-key: {error}"))
    }

    fn cors_origins(&self) -> Result<Origins, String> {
        Origins::new(&self.cors_origin).map_err(|error| cors_advice(&error))
    }

    fn allowed_hosts(&self) -> Result<AllowedHosts, String> {
        AllowedHosts::new(&self.allowed_host).map_err(|error| host_advice(&error))
    }

    /// The server's options.
    pub fn options(&self) -> Result<Options, String> {
        let tls = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls = tls.map(|(certificate, key)| Tls::read(certificate, key).map(Arc::new));
        Ok(Options {
            api_key: self.api_key()?,
            metrics_without_key: self.metrics_without_key,
            cors_origins: self.cors_origins()?,
            allowed_hosts: self.allowed_hosts()?,
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
