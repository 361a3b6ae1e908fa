//! rustls' crypto provider (graviola), and the TLS configuration of HTTP clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// The CPU lacks instructions that graviola needs. graviola itself would panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor lacks instructions that TLS needs here (ADX, AES, AVX2, BMI1 and PCLMULQDQ on x86-64; NEON with AES, \
     PMULL and SHA-2 on ARM)"
)]
pub struct UnsupportedCpu;

/// The crypto provider for rustls.
///
/// # Errors
/// [`UnsupportedCpu`].
pub fn provider() -> Result<Arc<CryptoProvider>, UnsupportedCpu> {
    match graviola::util::is_cpu_supported() {
        true => Ok(Arc::new(rustls_graviola::default_provider())),
        false => Err(UnsupportedCpu),
    }
}

/// An error that prevents HTTPS requests.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CPU cannot run the crypto provider.
    #[error(transparent)]
    Cpu(#[from] UnsupportedCpu),
    /// The file of root certificates is not valid.
    #[error("SSL_CERT_FILE {}: {reason}", file.display())]
    Roots { file: PathBuf, reason: String },
}

/// TLS configuration of an HTTP client. It trusts Mozilla's root certificates, or those in the file that the
/// environment variable `SSL_CERT_FILE` names.
///
/// # Errors
/// [`ClientError`].
pub fn client() -> Result<TlsConfig, ClientError> {
    let roots = match std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        None => RootCerts::WebPki,
        Some(path) => {
            let file = PathBuf::from(path);
            root_certificates(&file).map_err(|reason| ClientError::Roots { file, reason })?
        }
    };
    let config = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider()?)
        .root_certs(roots);
    Ok(config.build())
}

fn root_certificates(file: &Path) -> Result<RootCerts, String> {
    let pem = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err("the file contains no certificate".to_owned()),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
