//! The API key: what needs it, and whether a request has it.

use std::sync::Arc;

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, Request, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::server::{ApiError, App};

/// A key, kept as its digest: neither its text nor its length can be printed or measured.
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// Of the text that clients send.
    ///
    /// # Errors
    /// A key that cannot stand in a header, or an empty one.
    pub fn new(key: &str) -> Result<Self, &'static str> {
        match key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Err("an API key is made of visible ASCII characters, without spaces"),
            false => Ok(Self(Sha256::digest(key).into())),
        }
    }

    /// Takes as long whatever `key` has in common with this one.
    fn is(&self, key: &[u8]) -> bool {
        let theirs: [u8; 32] = Sha256::digest(key).into();
        self.0.ct_eq(&theirs).into()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// What an orchestrator and a browser ask before they could have a key; everything else is guarded, what is not
/// there included.
const OPEN: [&str; 14] = [
    "/",
    "/page.css",
    "/page.js",
    "/favicon.svg",
    "/docs",
    "/docs.css",
    "/docs.js",
    "/openapi.json",
    "/health",
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
    METRICS,
];

const METRICS: &str = "/metrics";

/// Lets through what needs no key and what has the right one.
pub struct Guarded<E> {
    pub inner: E,
    pub app: Arc<App>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Guarded<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let options = &self.app.options;
        if let Some(key) = &options.api_key {
            let path = request.uri().path();
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let open = reads && OPEN.contains(&path) && (path != METRICS || options.metrics_without_key);
            if !open && !carries(request.headers(), key) {
                return Err(refusal().into());
            }
        }
        self.inner.call(request).await
    }
}

fn carries(headers: &HeaderMap, key: &ApiKey) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // Two headers of this name are nobody's way to ask; which of them counts would be a guess.
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let value = value.as_bytes();
    let Some((scheme, theirs)) = value.split_at_checked("Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") & key.is(theirs.trim_ascii())
}

fn refusal() -> ApiError {
    let message = "This server wants an API key; send it as \"Authorization: Bearer KEY\".";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole_and_never_shown() {
        let key = ApiKey::new("s3cret").unwrap();
        assert!(key.is(b"s3cret"));
        for wrong in ["", "s3cre", "s3crets", "S3CRET", "s3cret "] {
            assert!(!key.is(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{key:?}").contains("s3cret"));
        for bad in ["", "two words", "schlüssel", "line\n"] {
            assert!(ApiKey::new(bad).is_err(), "{bad:?}");
        }
    }
}
