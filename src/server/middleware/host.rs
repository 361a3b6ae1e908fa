//! Requests to a server on a loopback address must be meant for it.
//!
//! A browser on the same machine reaches the server for any site that it shows: a site's name may resolve to 127.0.0.1
//! (DNS rebinding), and a page may post a form or a plain text to it without asking first. So the `Host` must be a
//! local name, and a page of another site must be allowed to post.

use poem::Request;
use poem::http::uri::Authority;
use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::cors::Origins;
use crate::server::error::ApiError;
use crate::sys::excerpt;

/// Names besides the local ones under which clients reach the server, in lower case; `*` for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

/// A text that is not the name of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a host such as cloze.example.org")]
pub struct InvalidHost(pub String);

impl AllowedHosts {
    /// Takes names without scheme and port.
    ///
    /// # Errors
    /// The first item that is not a name.
    pub fn new(names: &[String]) -> Result<Self, InvalidHost> {
        let is_name = |name: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !name.is_empty() && name.bytes().all(is_allowed)
        };
        match names.iter().find(|name| *name != "*" && !is_name(name)) {
            Some(name) => Err(InvalidHost(name.clone())),
            None => Ok(Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())),
        }
    }

    fn allows_any(&self) -> bool {
        self.0.iter().any(|name| name == "*")
    }

    /// True for an IP address, `localhost`, a name without a dot, which no site of the internet has, and the names of
    /// the list.
    fn contains(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
        let is_local = !host.contains('.') || host.ends_with(".localhost");
        is_address || is_local || self.allows_any() || self.0.contains(&host)
    }
}

/// Refuses a request for another host, and a request of another site's page that changes more than a read.
///
/// # Errors
/// 421 and 403.
pub fn check(allowed: &AllowedHosts, origins: &Origins, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let host = match headers.get(header::HOST) {
        // HTTP/1.0, which no browser speaks.
        None => None,
        Some(value) => Some(
            parse(value)
                .filter(|host| allowed.contains(host))
                .ok_or_else(|| misdirected(value))?,
        ),
    };
    if let Some(authority) = request
        .uri()
        .authority()
        .filter(|authority| !allowed.contains(authority))
    {
        let value = HeaderValue::from_str(authority.as_str());
        return Err(misdirected(&value.unwrap_or_else(|_| HeaderValue::from_static(""))));
    }
    let is_read = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    match is_read || is_of_own_site(allowed, origins, headers, host.as_ref()) {
        true => Ok(()),
        false => Err(cross_site()),
    }
}

fn parse(host: &HeaderValue) -> Option<Authority> {
    host.to_str().ok()?.parse().ok()
}

fn is_of_own_site(allowed: &AllowedHosts, origins: &Origins, headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let origin = headers.get(header::ORIGIN);
    match (site, origin) {
        (Some(b"same-origin" | b"none"), _) | (None, None) => true,
        // An older browser, or a site that is not secure.
        (None, Some(origin)) => {
            let text = origin.to_str().unwrap_or_default();
            let authority = text
                .split_once("://")
                .and_then(|(_, host)| host.parse::<Authority>().ok());
            let is_named = |authority: &Authority| allowed.0.iter().any(|name| name == authority.host());
            origins.allow(origin).is_some()
                || authority.is_some_and(|authority| Some(&authority) == host || is_named(&authority))
        }
        (Some(_), origin) => origin.is_some_and(|origin| origins.allow(origin).is_some()),
    }
}

fn misdirected(host: &HeaderValue) -> ApiError {
    let host = String::from_utf8_lossy(host.as_bytes());
    let message = format!(
        "This server does not answer to the host {:?}: it listens on this machine alone, where it is called localhost; its \
         settings can allow other names.",
        excerpt::name(&host)
    );
    ApiError::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message)
}

fn cross_site() -> ApiError {
    let message = "A page of another site sent this request, and its origin is not among those that the server's settings \
                   allow.";
    ApiError::new(StatusCode::FORBIDDEN, "cross_site", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> AllowedHosts {
        AllowedHosts::new(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let request = Request::builder().method(method);
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .finish()
    }

    fn status(allowed: &[&str], origins: &Origins, method: Method, headers: &[(&str, &str)]) -> u16 {
        use poem::error::ResponseError;
        match check(&hosts(allowed), origins, &request(method, headers)) {
            Ok(()) => 200,
            Err(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn only_local_names_and_allowed_ones_are_answered() {
        for (host, local, named) in [
            ("localhost", 200, 200),
            ("LOCALHOST:8000", 200, 200),
            ("localhost.", 200, 200),
            ("a.localhost:1", 200, 200),
            ("127.0.0.1:8000", 200, 200),
            ("192.168.1.2", 200, 200),
            ("[::1]:8000", 200, 200),
            ("cloze", 200, 200),
            ("evil.example", 421, 421),
            ("evil.example:8000", 421, 421),
            ("localhost.evil.example", 421, 421),
            ("127.0.0.1.evil.example", 421, 421),
            ("cloze.example.org:8000", 421, 200),
            ("Cloze.Example.Org", 421, 200),
            ("x.cloze.example.org", 421, 421),
            ("a b", 421, 421),
            ("", 421, 421),
        ] {
            for (allowed, expected) in [(&[][..], local), (&["cloze.example.org"][..], named), (&["*"][..], 200)] {
                let found = status(allowed, &Origins::None, Method::GET, &[("host", host)]);
                assert!(
                    found == expected || allowed == ["*"] && parse(&host.parse().unwrap()).is_none(),
                    "{host}: {found}"
                );
            }
        }
        assert_eq!(status(&[], &Origins::None, Method::GET, &[]), 200);
        for wrong in ["", "http://a.example", "a.example:80", "a b", "a.example/"] {
            assert_eq!(
                AllowedHosts::new(&[wrong.to_owned()]),
                Err(InvalidHost(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn pages_of_other_sites_may_post_only_if_their_origin_is_listed() {
        let listed = Origins::new(&["https://listed.example".to_owned()]).unwrap();
        let own = ("origin", "http://127.0.0.1:8000");
        let (other, named) = (("origin", "https://evil.example"), ("origin", "https://listed.example"));
        let site = |value| ("sec-fetch-site", value);
        for (headers, expected) in [
            (&[][..], 200),
            (&[own], 200),
            (&[own, site("same-origin")], 200),
            (&[site("none")], 200),
            // The page of this server behind a proxy.
            (&[("origin", "https://proxy.example"), site("same-origin")], 200),
            (&[named], 200),
            (&[named, site("cross-site")], 200),
            (&[other], 403),
            (&[other, site("cross-site")], 403),
            (&[("origin", "http://localhost:3000"), site("same-site")], 403),
            (&[("origin", "http://127.0.0.1:3000")], 403),
            (&[("origin", "null")], 403),
            (&[site("cross-site")], 403),
        ] {
            let headers = [&[("host", "127.0.0.1:8000")], headers].concat();
            assert_eq!(status(&[], &listed, Method::POST, &headers), expected, "{headers:?}");
            // Reads cannot be read by the page without CORS.
            assert_eq!(status(&[], &listed, Method::GET, &headers), 200, "{headers:?}");
        }
        let behind_proxy = [("host", "127.0.0.1:8000"), ("origin", "http://cloze.example.org")];
        assert_eq!(
            status(&["cloze.example.org"], &listed, Method::POST, &behind_proxy),
            200
        );
        assert_eq!(status(&[], &listed, Method::POST, &behind_proxy), 403);
    }
}
