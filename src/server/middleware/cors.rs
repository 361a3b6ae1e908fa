//! Pages of other sites: which may ask, as their browsers want to be told.
//!
//! poem's own middleware answers 403 to every origin that is not listed, the page's own among them.

use std::sync::Arc;

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, Request, Response};

use crate::server::App;
use crate::server::error::respond;

/// Sites as browsers name them, such as `https://example.org`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// No site but our own.
    #[default]
    None,
    /// Every site.
    Any,
    /// These.
    Listed(Vec<HeaderValue>),
}

impl Origins {
    /// Of a list of origins, in which `*` stands for all.
    ///
    /// # Errors
    /// The first that no browser would send.
    pub fn new(origins: &[String]) -> Result<Self, String> {
        let mut listed = Vec::new();
        for origin in origins {
            if origin == "*" {
                return Ok(Self::Any);
            }
            let host = origin.split_once("://").map(|(_, host)| host);
            let sound = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
            match HeaderValue::from_str(origin) {
                // Browsers send it in lower case and without a slash at its end.
                Ok(value) if sound && !origin.contains(char::is_uppercase) => listed.push(value),
                _ => {
                    return Err(format!(
                        "--cors-origin \"{origin}\" is not an origin; write it as https://example.org, or * for all"
                    ));
                }
            }
        }
        Ok(match listed.is_empty() {
            true => Self::None,
            false => Self::Listed(listed),
        })
    }

    /// What a browser is told of `origin`.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(listed) => listed.contains(origin).then(|| origin.clone()),
        }
    }
}

/// How long a browser may remember what it was told: two hours is the most that any takes.
const MAX_AGE_SECONDS: u32 = 7200;

/// Answers preflights, and says on every other answer who may read it.
pub struct Shared<E> {
    pub inner: E,
    pub app: Arc<App>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Shared<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let origins = &self.app.options.cors_origins;
        if *origins == Origins::None {
            return self.inner.call(request).await;
        }
        let origin = request.headers().get(header::ORIGIN);
        let allowed = origin.and_then(|origin| origins.allowed(origin));
        let preflight = *request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = match (&allowed, preflight) {
            (Some(_), true) => permission(),
            // Refusals too: a page is told why it was refused only if it may read it.
            _ => match self.inner.call(request).await {
                Ok(response) => response,
                Err(error) => respond(error).await,
            },
        };
        let headers = response.headers_mut();
        // Another origin may get another answer: no cache may mix them up.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed());
        }
        Ok(response)
    }
}

fn permission() -> Response {
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

fn exposed() -> HeaderValue {
    HeaderValue::from_static(
        "inference-header-content-length, retry-after, x-request-id, x-queue-time-ms, x-inference-time-ms, x-tokens",
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
            assert!(origins(&[wrong]).unwrap_err().contains("--cors-origin"), "{wrong:?}");
        }
    }
}
