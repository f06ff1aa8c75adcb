//! TLS on the gateway's own socket, for where no proxy ends it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};

/// Where the certificate and its key stand, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, with those between it and the root behind it.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// The certificate that new connections get. Cheap to clone; all clones change together.
#[derive(Clone)]
pub(crate) struct Certificate {
    settings: TlsSettings,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads both files.
    pub(crate) fn read(settings: TlsSettings) -> Result<Self> {
        let current = Arc::new(ArcSwap::from(load(&settings)?));
        Ok(Self { settings, current })
    }

    /// Reads both files again. When they are not in order, the certificate at hand stays.
    pub(crate) fn reload(&self) -> Result<()> {
        self.current.store(load(&self.settings)?);
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>> {
    let refuse = |name: &str, path: &Path, reason: String| {
        Err(Error::setting(
            format!("gateway.{name}"),
            path.display(),
            reason,
        ))
    };
    let certificates = CertificateDer::pem_file_iter(&settings.cert)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let certificates = match certificates {
        Ok(found) if !found.is_empty() => found,
        Ok(_) => {
            return refuse(
                "tls_cert",
                &settings.cert,
                "no certificate is in this file".into(),
            );
        }
        Err(error) => {
            return refuse(
                "tls_cert",
                &settings.cert,
                format!("not a PEM file that can be read: {error}"),
            );
        }
    };
    let key = match PrivateKeyDer::from_pem_file(&settings.key) {
        Ok(key) => key,
        // The error may quote what it found.
        Err(_) => {
            return refuse(
                "tls_key",
                &settings.key,
                "no private key in PEM can be read from this file".into(),
            );
        }
    };
    // Named: with two providers in the build, rustls's own default panics.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::setting(
                "gateway.tls_cert",
                settings.cert.display(),
                error.to_string(),
            )
        })?
        .with_no_client_auth()
        .with_single_cert(certificates, key);
    match config {
        Ok(mut config) => {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(config))
        }
        Err(error) => refuse(
            "tls_key",
            &settings.key,
            format!("does not fit the certificate: {error}"),
        ),
    }
}
