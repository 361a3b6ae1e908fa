//! `cloze health`: health check of a running server, for containers without curl.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::TlsConfig;

use super::values::{PORT_MAX, TIME_LIMIT_MS_MAX, within};
use super::variables;

/// Limit on the response body. The server's own are shorter.
const BODY_BYTES_MAX: u64 = 1024;

/// `cloze health`.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Address or name that the server listens on; 0.0.0.0 and :: mean this machine
    #[arg(long, env = "CLOZE_HOST", default_value = "127.0.0.1", value_name = "HOST", value_hint = ValueHint::Hostname)]
    host: String,

    /// Port of the server; HTTPS is used if CLOZE_TLS_CERT is set
    #[arg(short, long, env = "CLOZE_PORT", default_value = "8000", value_name = "PORT",
          value_parser = within::<u16>(1..=PORT_MAX))]
    port: u16,

    /// Address of the server, instead of host and port: http://HOST:PORT or https://HOST:PORT; http:// may be left out
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    url: Option<String>,

    /// Check that the process responds (liveness), not that it is ready
    #[arg(long)]
    live: bool,

    /// Time limit for the response
    #[arg(long, default_value = "5000", value_name = "MS", value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    timeout_ms: u64,
}

impl HealthArguments {
    /// Checks the URL.
    ///
    /// # Errors
    /// It is not the address of a server.
    pub fn check(&self) -> Result<(), String> {
        let Some(url) = &self.url else {
            return Ok(());
        };
        let is_address = self.server().parse::<Uri>().is_ok_and(|server| {
            let host = server.host().unwrap_or_default();
            matches!(server.scheme_str(), Some("http" | "https")) && !host.is_empty()
        });
        match is_address {
            true => Ok(()),
            false => Err(format!(
                "--url \"{url}\" is not the address of a server; write it as http://HOST:PORT or https://HOST:PORT"
            )),
        }
    }

    /// Scheme, host and port.
    fn server(&self) -> String {
        match &self.url {
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(url) => format!("http://{}", url.trim_end_matches('/')),
            // In a container it has the environment of the server.
            None => {
                let has_tls = variables::value("CLOZE_TLS_CERT").is_some();
                let scheme = if has_tls { "https" } else { "http" };
                format!("{scheme}://{}:{}", local(&self.host), self.port)
            }
        }
    }
}

/// The host in a URL.
fn local(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

/// Prints the response. Returns success if its status is 200.
pub fn run(arguments: &HealthArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let server = arguments.server();
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
    let unreachable = |error: ureq::Error| unreachable(&url, &error);
    let mut response = agent.get(&url).call().map_err(unreachable)?;
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
    let body = body.map_err(unreachable)?;
    super::print(&[String::from_utf8_lossy(&body)])?;
    Ok(match response.status().as_u16() {
        200 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn unreachable(url: &str, error: &ureq::Error) -> String {
    let is_tls = url.starts_with("https:");
    let other = |from: &str, to: &str| {
        let server = url.split("/health/").next().unwrap_or(url);
        server.replacen(from, to, 1)
    };
    match error {
        ureq::Error::Protocol(_) if !is_tls => {
            format!(
                "{url} does not answer in HTTP; for a server with TLS use --url {}",
                other("http:", "https:")
            )
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) if is_tls => {
            format!(
                "{url} does not speak TLS ({error}); for a server without it use --url {}",
                other("https:", "http:")
            )
        }
        ureq::Error::Io(io) if is_tls && io.kind() == std::io::ErrorKind::InvalidData => {
            format!(
                "{url} does not speak TLS ({error}); for a server without it use --url {}",
                other("https:", "http:")
            )
        }
        error => format!("no response from {url}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_server_is_one_that_can_be_reached() {
        for (host, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("[::1]", "[::1]"),
            ("fd00::7", "[fd00::7]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(local(host), expected, "{host}");
        }
    }
}
