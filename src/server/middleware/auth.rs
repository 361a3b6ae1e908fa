//! Authentication with an API key.
//!
//! [`authenticate`] runs for every request and notes in its extensions if it carries the key; [`require_key`] refuses
//! requests without it. The route table decides where a key is required.

use poem::Request;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::server::error::ApiError;

/// The API key, stored as its SHA-256 digest: neither its text nor its length can be printed or measured.
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// Takes the text that clients send.
    ///
    /// # Errors
    /// An empty key, or one with characters that a header cannot carry.
    pub fn new(key: &str) -> Result<Self, &'static str> {
        match key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Err("an API key is made of visible ASCII characters, without spaces"),
            false => Ok(Self(Sha256::digest(key).into())),
        }
    }

    /// Compares in constant time.
    fn matches(&self, key: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        self.0.ct_eq(&digest).into()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Request extension: the request carries the server's key, or the server has none.
#[derive(Clone, Copy)]
struct Authenticated;

/// Marks `request` as authenticated if it carries `key` or the server has no key.
pub fn authenticate(key: Option<&ApiKey>, request: &mut Request) {
    if key.is_none_or(|key| carries(request.headers(), key)) {
        request.extensions_mut().insert(Authenticated);
    }
}

/// Refuses a request that [`authenticate`] has not marked.
///
/// # Errors
/// 401 with `WWW-Authenticate`.
pub fn require_key(request: &Request) -> Result<(), ApiError> {
    match request.extensions().get::<Authenticated>() {
        Some(Authenticated) => Ok(()),
        None => Err(unauthorized(request.headers().contains_key(header::AUTHORIZATION))),
    }
}

fn carries(headers: &HeaderMap, key: &ApiKey) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // With two headers of this name it would be a guess which one counts.
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let value = value.as_bytes();
    let Some((scheme, credentials)) = value.split_at_checked("Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") & key.matches(credentials.trim_ascii())
}

fn unauthorized(has_header: bool) -> ApiError {
    let message = match has_header {
        true => "The API key is wrong, or not sent as \"Authorization: Bearer KEY\".",
        false => "This server requires an API key; send it as \"Authorization: Bearer KEY\".",
    };
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole_and_never_shown() {
        let key = ApiKey::new("s3cret").unwrap();
        assert!(key.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3crets", "S3CRET", "s3cret "] {
            assert!(!key.matches(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{key:?}").contains("s3cret"));
        for bad in ["", "two words", "schlüssel", "line\n"] {
            assert!(ApiKey::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_that_was_not_authenticated_is_refused() {
        let mut request = Request::default();
        assert!(require_key(&request).is_err(), "without the layer nothing is open");
        authenticate(Some(&ApiKey::new("s3cret").unwrap()), &mut request);
        assert!(require_key(&request).is_err());
        authenticate(None, &mut request);
        assert!(require_key(&request).is_ok());
    }
}
