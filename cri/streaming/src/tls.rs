//! The certificate of a server that listens beyond loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

/// The files of a certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, followed by its intermediates.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certificate {
    /// Loads it.
    ///
    /// # Errors
    /// [`Error::Certificate`]: a file cannot be read, or the key is not the certificate's.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, Error> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| Error::Certificate {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect)
            .map_err(|error| failed(&self.chain, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| failed(&self.key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&self.chain, &error))?;
        let mut config =
            builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| failed(&self.chain, &error))?;
        // Upgrades are of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
