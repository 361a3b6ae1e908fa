//! `cloze health`: health check of a running server, for containers without curl.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ureq::Agent;
use ureq::tls::TlsConfig;

use super::ranges::{TIME_LIMIT_MS_MAX, within};

/// Limit on the response body. The server's own are shorter.
const BODY_BYTES_MAX: u64 = 1024;

/// `cloze health`.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Port of the server on this machine; HTTPS is used if CLOZE_TLS_CERT is set
    #[arg(long, env = "CLOZE_PORT", default_value_t = 8000)]
    port: u16,

    /// URL of the server, instead of a port on this machine: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Check that the process responds (liveness), not that it is ready
    #[arg(long)]
    live: bool,

    /// Time limit for the response
    #[arg(long, default_value = "5000", value_name = "MS", value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    timeout_ms: u64,
}

/// Prints the response. Returns success if its status is 200.
pub fn run(arguments: &HealthArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let server = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        // In a container it has the environment of the server.
        None if std::env::var_os("CLOZE_TLS_CERT").is_some() => format!("https://127.0.0.1:{}", arguments.port),
        None => format!("http://127.0.0.1:{}", arguments.port),
    };
    let mut config = Agent::config_builder()
        // HTTP_PROXY does not apply to a health check.
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_millis(arguments.timeout_ms)));
    if server.starts_with("https:") {
        // The certificate is not for the loopback address. The request carries no secret, and only the status is used.
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(cloze::sys::crypto::provider()?)
            .disable_verification(true);
        config = config.tls_config(tls.build());
    }
    let agent = config.build().new_agent();
    let url = format!("{server}/health/{}", if arguments.live { "live" } else { "ready" });
    let unreachable = |error: ureq::Error| format!("no response from {url}: {error}");
    let mut response = agent.get(&url).call().map_err(unreachable)?;
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
    let body = body.map_err(unreachable)?;
    super::print(&[String::from_utf8_lossy(&body)])?;
    Ok(match response.status().as_u16() {
        200 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
