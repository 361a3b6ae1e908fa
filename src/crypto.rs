//! The cryptography of TLS, for the server and for downloads: graviola, through rustls.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// graviola is written for processors since 2015 or so, and panics on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor lacks instructions that TLS needs here (ADX, AES, AVX2, BMI1 and PCLMULQDQ on x86-64; NEON with AES, \
     PMULL and SHA-2 on ARM)"
)]
pub struct UnsupportedCpu;

/// What rustls computes with.
///
/// # Errors
/// [`UnsupportedCpu`].
pub fn provider() -> Result<Arc<CryptoProvider>, UnsupportedCpu> {
    match graviola::util::is_cpu_supported() {
        true => Ok(Arc::new(rustls_graviola::default_provider())),
        false => Err(UnsupportedCpu),
    }
}
