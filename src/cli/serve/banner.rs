//! The start-up block: model, hardware, limits, addresses, and a request to paste into a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cloze::Cloze;

use super::ServeArguments;

/// Reads the key into the variable if it is not set, in any shell of the Bourne family.
const READ_KEY: &str = r#"[ "$CLOZE_API_KEY" ] || read -r CLOZE_API_KEY; "#;
const KEY_HEADER: &str = r#"-H "authorization: Bearer $CLOZE_API_KEY" "#;

/// The lines of the block.
pub fn banner(arguments: &ServeArguments, cloze: &Cloze, address: SocketAddr, model_name: &str) -> Vec<String> {
    let (task, limits) = (cloze.pipeline().model(), cloze.pipeline().engine().limits());
    let scheme = if arguments.http.has_tls() { "https" } else { "http" };
    let local = format!("{scheme}://{}", reachable(address));
    let has_key = arguments.http.has_key();
    let key = "  key      required; the line below takes it from CLOZE_API_KEY, or waits until you type it";
    let lines = [
        format!("cloze {}", env!("CARGO_PKG_VERSION")),
        format!(
            "  model    {}, vocabulary size {}, texts up to {} tokens, mask {}",
            cloze.name(),
            task.vocab_size(),
            task.tokens_max(),
            cloze.mask_token()
        ),
        format!("  backend  {}", cloze.device()),
        format!(
            "  batches  up to {} texts or {} tokens, batch delay {} ms",
            limits.batch_size_max, limits.batch_tokens_max, arguments.batch_delay_ms
        ),
        format!(
            "  limits   queue capacity {} texts, request timeout {} ms, request body {} bytes",
            limits.queue_size, arguments.request_timeout_ms, arguments.max_body_bytes
        ),
        format!("  v2 name  {model_name}"),
        format!("  address  {scheme}://{address}"),
        format!("  page     {local}/ in a browser, the API at {local}/docs"),
    ];
    let text = text(cloze.info().family, task.tokens_max(), cloze.mask_token());
    let last = [format!("  try      {}", request(&text, &local, has_key))];
    let key = has_key.then(|| key.to_owned());
    lines.into_iter().chain(key).chain(last).collect()
}

/// An address that a client on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A text that the model can read.
fn text(family: &str, tokens_max: usize, mask: &str) -> String {
    match family {
        _ if tokens_max < 12 => mask.to_owned(),
        "esm" => format!("MKTAYIAKQR{mask}ISFVKSHFSRQ"),
        _ => format!("Paris is the capital of {mask}."),
    }
}

/// A curl command. The certificate of an HTTPS server is not checked, because it is for a name and not for this
/// address.
fn request(text: &str, url: &str, has_key: bool) -> String {
    let insecure = if url.starts_with("https") { "-k " } else { "" };
    let (read, header) = match has_key {
        true => (READ_KEY, KEY_HEADER),
        false => ("", ""),
    };
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('$', "\\$")
        .replace('`', "\\`");
    // Brackets are a pattern in zsh.
    let quote = if url.contains('[') { "\"" } else { "" };
    format!("{read}curl {insecure}{header}-d \"{text}\" {quote}{url}/{quote}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_works_as_it_is() {
        for (address, has_key, expected) in [
            (
                "http://127.0.0.1:8000",
                false,
                r#"curl -d "a [MASK]" http://127.0.0.1:8000/"#.to_owned(),
            ),
            (
                "https://127.0.0.1:8000",
                false,
                r#"curl -k -d "a [MASK]" https://127.0.0.1:8000/"#.to_owned(),
            ),
            (
                "http://[::1]:8000",
                false,
                r#"curl -d "a [MASK]" "http://[::1]:8000/""#.to_owned(),
            ),
            (
                "http://127.0.0.1:8000",
                true,
                [
                    r#"[ "$CLOZE_API_KEY" ] || read -r CLOZE_API_KEY; "#,
                    r#"curl -H "authorization: Bearer $CLOZE_API_KEY" -d "a [MASK]" http://127.0.0.1:8000/"#,
                ]
                .concat(),
            ),
        ] {
            assert_eq!(request("a [MASK]", address, has_key), expected);
        }
        assert!(request("a $x `b` \"c\"", "http://x", false).contains(r#"-d "a \$x \`b\` \"c\"""#));
    }

    #[test]
    fn the_address_of_the_request_is_one_that_can_be_reached() {
        for (listening, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.7:80", "192.0.2.7:80"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn the_text_suits_the_model() {
        assert_eq!(text("bert", 512, "[MASK]"), "Paris is the capital of [MASK].");
        assert_eq!(text("bert", 5, "[MASK]"), "[MASK]");
        assert_eq!(text("esm", 1024, "<mask>"), "MKTAYIAKQR<mask>ISFVKSHFSRQ");
    }
}
