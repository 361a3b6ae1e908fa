//! TLS: certificate and key from files, which can be reloaded.

use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};

use crate::sys::crypto::{UnsupportedCpu, provider};

/// The two files of [`Tls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// The server's certificate and the chain to its authority.
    Certificate,
    /// The private key of the certificate.
    Key,
}

impl Display for TlsFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "private key",
        })
    }
}

/// Why two files do not give a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read: {reason}", path = path.display())]
    Unreadable {
        file: TlsFile,
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The file holds no item of its kind.
    #[error("{path} holds no {expected} in PEM form", path = path.display())]
    Missing {
        file: TlsFile,
        path: PathBuf,
        expected: &'static str,
    },
    /// A certificate or a key that is broken or of an unsupported kind.
    #[error("the {file} in {path} cannot be used: {reason}", path = path.display())]
    Unusable {
        file: TlsFile,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "{key} is not the key of the first certificate in {certificate}",
        key = key.display(),
        certificate = certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    /// The CPU lacks instructions that the cryptography needs.
    #[error("{0}; put a proxy in front that does TLS")]
    Cpu(#[from] UnsupportedCpu),
}

impl TlsError {
    /// The file at fault.
    pub fn file(&self) -> TlsFile {
        match self {
            Self::Unreadable { file, .. } | Self::Missing { file, .. } | Self::Unusable { file, .. } => *file,
            Self::Mismatch { .. } => TlsFile::Key,
            Self::Cpu(_) => TlsFile::Certificate,
        }
    }
}

/// The only protocol that is spoken inside TLS.
const ALPN: &[u8] = b"http/1.1";

/// A certificate with its key, and the configuration made of them.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its private key, both in PEM form.
    ///
    /// # Errors
    /// Unreadable or unusable files, and a key that does not belong to the certificate.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            config: RwLock::new(read_config(certificate, key)?),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the files again, for connections accepted from here on.
    ///
    /// # Errors
    /// As [`Tls::read`]; the previous configuration then stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read_config(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Without the key.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn read_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider()?;
    let unusable = |file, path: &Path| {
        let path = path.to_owned();
        move |error: rustls::Error| TlsError::Unusable {
            file,
            path,
            reason: error.to_string(),
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = match chain {
        Ok(chain) if chain.is_empty() => Err(PemError::NoItemsFound),
        chain => chain,
    };
    let chain = chain.map_err(pem_error(TlsFile::Certificate, certificate, "certificate"))?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(pem_error(TlsFile::Key, key, "private key without a password"))?;
    let private = provider
        .key_provider
        .load_private_key(private)
        .map_err(unusable(TlsFile::Key, key))?;
    match belong_together(&provider, &chain[0], &*private) {
        Ok(true) => {}
        Ok(false) => {
            return Err(TlsError::Mismatch {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        Err(error) => {
            return Err(TlsError::Unusable {
                file: TlsFile::Certificate,
                path: certificate.to_owned(),
                reason: error.to_string(),
            });
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable(TlsFile::Certificate, certificate))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, private))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// True if a signature of the key verifies with the certificate. rustls compares public keys instead, which graviola's
/// keys do not provide.
fn belong_together(
    provider: &CryptoProvider,
    certificate: &CertificateDer<'_>,
    key: &dyn SigningKey,
) -> Result<bool, webpki::Error> {
    let certificate = webpki::EndEntityCert::try_from(certificate)?;
    let verify = provider.signature_verification_algorithms.mapping;
    let schemes: Vec<_> = verify.iter().map(|(scheme, _)| *scheme).collect();
    let message = b"signed by a server when it starts";
    let Some(signer) = key.choose_scheme(&schemes) else {
        return Ok(false);
    };
    let Ok(signature) = signer.sign(message) else {
        return Ok(false);
    };
    let scheme = signer.scheme();
    let mut algorithms = verify.iter().filter(|(of, _)| *of == scheme);
    let algorithms = algorithms.next().map_or(&[][..], |(_, algorithms)| *algorithms);
    Ok(algorithms
        .iter()
        .any(|algorithm| certificate.verify_signature(*algorithm, message, &signature).is_ok()))
}

fn pem_error(file: TlsFile, path: &Path, expected: &'static str) -> impl FnOnce(PemError) -> TlsError {
    let path = path.to_owned();
    move |error| match error {
        PemError::Io(error) => TlsError::Unreadable {
            file,
            path,
            reason: error.to_string(),
        },
        PemError::NoItemsFound => TlsError::Missing { file, path, expected },
        error => TlsError::Unusable {
            file,
            path,
            reason: error.to_string(),
        },
    }
}
