//! CORS: which sites' pages may call the service from a browser.
//!
//! poem's own middleware answers 403 to every origin that is not listed, the server's own page among them.

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, Request, Response};

use crate::server::error::respond;

/// Allowed origins, as browsers write them, such as `https://example.org`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// No other site.
    #[default]
    None,
    /// Every site.
    Any,
    Listed(Vec<HeaderValue>),
}

/// A text that no browser sends as an origin: scheme and host in lower case, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin such as https://example.org")]
pub struct InvalidOrigin(pub String);

impl Origins {
    /// Takes a list of origins, in which `*` allows every site.
    ///
    /// # Errors
    /// The first item that is not an origin.
    pub fn new(origins: &[String]) -> Result<Self, InvalidOrigin> {
        let mut listed = Vec::new();
        for origin in origins {
            if origin == "*" {
                return Ok(Self::Any);
            }
            let host = origin.split_once("://").map(|(_, host)| host);
            let has_host = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
            match HeaderValue::from_str(origin) {
                Ok(value) if has_host && !origin.contains(char::is_uppercase) => listed.push(value),
                _ => return Err(InvalidOrigin(origin.clone())),
            }
        }
        Ok(match listed.is_empty() {
            true => Self::None,
            false => Self::Listed(listed),
        })
    }

    /// The value of `Access-Control-Allow-Origin` for a request from `origin`.
    pub(super) fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(listed) => listed.contains(origin).then(|| origin.clone()),
        }
    }
}

/// Lifetime of a preflight answer in a browser's cache: two hours, the most that any browser accepts.
const MAX_AGE_SECONDS: u32 = 7200;

/// Answers preflight requests, and adds the CORS headers to every other answer.
///
/// # Errors
/// Those of `next`, if no origin is configured.
pub async fn answer(
    origins: &Origins,
    next: &impl Endpoint<Output = Response>,
    request: Request,
) -> poem::Result<Response> {
    if *origins == Origins::None {
        return next.call(request).await;
    }
    let origin = request.headers().get(header::ORIGIN);
    let allowed = origin.and_then(|origin| origins.allow(origin));
    let is_preflight =
        *request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&allowed, is_preflight) {
        (Some(_), true) => preflight_answer(),
        // Errors get the headers too: without them a page could not read why it was refused.
        _ => match next.call(request).await {
            Ok(response) => response,
            Err(error) => respond(error).await,
        },
    };
    let headers = response.headers_mut();
    // The answer depends on the origin, so a cache must not mix them up.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed_headers());
    }
    Ok(response)
}

fn preflight_answer() -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "authorization, content-type, inference-header-content-length, x-request-id, x-request-timeout-ms",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(MAX_AGE_SECONDS));
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    response.headers_mut().extend(headers);
    response
}

fn exposed_headers() -> HeaderValue {
    HeaderValue::from_static(
        "inference-header-content-length, retry-after, x-request-id, x-queue-time-ms, x-inference-time-ms, x-tokens, \
         x-truncated-tokens, x-replaced-targets, x-replaced-targets-unlisted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked_when_the_server_starts() {
        let origins = |texts: &[&str]| Origins::new(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(origins(&[]), Ok(Origins::None));
        assert_eq!(origins(&["https://a.example", "*"]), Ok(Origins::Any));
        assert!(matches!(origins(&["http://a.example:8080"]), Ok(Origins::Listed(_))));
        for wrong in [
            "a.example",
            "https://a.example/",
            "https://A.example",
            "https://",
            "a://b\n",
        ] {
            assert_eq!(origins(&[wrong]), Err(InvalidOrigin(wrong.to_owned())));
        }
    }
}
