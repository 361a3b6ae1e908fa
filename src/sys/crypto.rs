//! The cryptography of TLS, for the server and for what Cloze asks others: graviola, through rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

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

/// Why nothing can be asked over HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TLS on this processor.
    #[error(transparent)]
    Cpu(#[from] UnsupportedCpu),
    /// The file of whom to trust.
    #[error("SSL_CERT_FILE {}: {reason}", file.display())]
    Roots {
        /// What `SSL_CERT_FILE` names.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// How a client speaks TLS: it trusts Mozilla's list, or those of the file that `SSL_CERT_FILE` names, as for a company's
/// own proxy.
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
        true => Err("it holds no certificate".to_owned()),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
