//! `cloze health`: asks a running server, for the health checks of containers that hold no curl.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ureq::Agent;
use ureq::tls::TlsConfig;

/// Of an answer, in bytes; the server's own are shorter.
const ANSWER_BYTES_MAX: u64 = 1024;

/// `cloze health`.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Port of the server on this machine; HTTPS where CLOZE_TLS_CERT is set
    #[arg(long, env = "CLOZE_PORT", default_value_t = 8000)]
    port: u16,

    /// Where the server is, instead of a port on this machine: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Ask whether the process answers, not whether it is ready
    #[arg(long)]
    live: bool,

    /// How long to wait for the answer
    #[arg(long, default_value_t = 5_000, value_name = "MS")]
    timeout_ms: u64,
}

/// Prints what the server says; a failure unless that is 200.
pub fn run(arguments: &HealthArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let server = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        // In a container it sees what the server sees.
        None if std::env::var_os("CLOZE_TLS_CERT").is_some() => format!("https://127.0.0.1:{}", arguments.port),
        None => format!("http://127.0.0.1:{}", arguments.port),
    };
    let mut config = Agent::config_builder()
        // Straight to the server, whatever HTTP_PROXY says.
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_millis(arguments.timeout_ms)));
    if server.starts_with("https:") {
        // A certificate is made out to another name than the loopback's, and nothing is told or believed here that matters.
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(cloze::sys::crypto::provider()?)
            .disable_verification(true);
        config = config.tls_config(tls.build());
    }
    let agent = config.build().new_agent();
    let url = format!("{server}/health/{}", if arguments.live { "live" } else { "ready" });
    let unreachable = |error: ureq::Error| format!("{url} does not answer: {error}");
    let mut response = agent.get(&url).call().map_err(unreachable)?;
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let body = body.map_err(unreachable)?;
    super::print(&[String::from_utf8_lossy(&body)])?;
    Ok(match response.status().as_u16() {
        200 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
