//! TLS: a certificate and its key from files, read anew when told to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};

use crate::sys::crypto::{UnsupportedCpu, provider};

/// Why there is no TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there, or not ours to read.
    #[error("{flag}: {path} cannot be read: {reason}", path = path.display())]
    Unreadable {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file that holds something else.
    #[error("{flag}: {path} holds no {wanted} in PEM form", path = path.display())]
    NotThere {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A certificate or a key that is broken or of a kind that is not supported.
    #[error("{flag}: what {path} holds cannot be used: {reason}", path = path.display())]
    Unusable {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that belongs to something else.
    #[error(
        "--tls-key: {key} is not the key of the first certificate in {certificate} (--tls-cert)",
        key = key.display(),
        certificate = certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// TLS cannot be computed here.
    #[error("--tls-cert: {0}; put a proxy in front that does TLS")]
    Cpu(#[from] UnsupportedCpu),
}

const CERTIFICATE_FLAG: &str = "--tls-cert";
const KEY_FLAG: &str = "--tls-key";
/// All that is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// What a server proves its name with.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its private key.
    ///
    /// # Errors
    /// One sentence that names flag and file.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            config: RwLock::new(read_config(certificate, key)?),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the files anew, for the connections that come from here on.
    ///
    /// # Errors
    /// As [`Tls::read`]; what was read before then stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read_config(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What a new connection is set up with.
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
    let unusable = |flag, path: &Path| {
        let path = path.to_owned();
        move |error: rustls::Error| TlsError::Unusable {
            flag,
            path,
            reason: error.to_string(),
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = match chain {
        Ok(chain) if chain.is_empty() => Err(PemError::NoItemsFound),
        chain => chain,
    };
    let chain = chain.map_err(of_pem(CERTIFICATE_FLAG, certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(of_pem(KEY_FLAG, key, "private key without a password"))?;
    let private = provider
        .key_provider
        .load_private_key(private)
        .map_err(unusable(KEY_FLAG, key))?;
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
                flag: CERTIFICATE_FLAG,
                path: certificate.to_owned(),
                reason: error.to_string(),
            });
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable(CERTIFICATE_FLAG, certificate))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, private))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Whether what the key signs can be verified with the certificate. rustls asks the key for its public half, which
/// graviola's keys do not tell.
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

fn of_pem(flag: &'static str, path: &Path, wanted: &'static str) -> impl FnOnce(PemError) -> TlsError {
    let path = path.to_owned();
    move |error| match error {
        PemError::Io(error) => TlsError::Unreadable {
            flag,
            path,
            reason: error.to_string(),
        },
        PemError::NoItemsFound => TlsError::NotThere { flag, path, wanted },
        error => TlsError::Unusable {
            flag,
            path,
            reason: error.to_string(),
        },
    }
}
