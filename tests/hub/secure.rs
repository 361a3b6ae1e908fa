//! A stand-in for the hub behind TLS, and downloads through it.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fake::{FakeHub, NAME};
use super::opening::start;
use crate::common::fixtures::tls as file;

/// A TLS proxy in front of `port` that runs as long as the process; returns its own port.
fn terminate_tls(port: u16) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (outside, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust the certificate closes the connection; its test checks that.
                    let Ok(mut outside) = acceptor.accept(outside).await else {
                        return;
                    };
                    let mut inside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
    });
    own
}

/// Starts the binary on a model of a hub behind HTTPS.
fn download(variables: &[(&str, &str)], cache: &Path) -> Result<String, String> {
    let hub = FakeHub::golden("uncased-tied");
    let port = terminate_tls(hub.port());
    let endpoint = format!("https://localhost:{port}");
    hub.set_public(endpoint.clone());
    let variables = [variables, &[("HF_ENDPOINT", endpoint.as_str())]].concat();
    start(cache, &variables, NAME)
}

#[test]
fn a_model_is_downloaded_over_tls_if_the_certificate_is_trusted() {
    let cache = TempDir::new().unwrap();
    let error = download(&[], cache.path()).unwrap_err();
    assert!(
        error.contains("cannot be reached") && error.to_lowercase().contains("certificate"),
        "{error}"
    );
    let trusted = file("authority.pem");
    let serves = download(&[("SSL_CERT_FILE", &trusted)], cache.path()).unwrap();
    assert!(serves.contains(NAME), "{serves}");
}

/// In debug builds graviola lets a variable hide a feature of the CPU.
#[test]
#[cfg(all(target_arch = "x86_64", debug_assertions))]
fn a_cpu_without_the_features_for_tls_is_refused() {
    let cache = TempDir::new().unwrap();
    let error = download(&[("GRAVIOLA_CPU_DISABLE_avx2", "1")], cache.path()).unwrap_err();
    assert!(
        error.contains("this processor lacks") && error.contains("DIR with --model"),
        "{error}"
    );
    assert!(!error.contains("panicked"), "{error}");
}
