//! TLS by rustls on ring, and what it means when it fails.

use std::sync::Arc;

use forge_core::{Error, ErrorKind, Result};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;

use crate::{Node, RedisConfig};

/// What TLS is spoken with.
pub(crate) fn connector(config: &RedisConfig) -> Result<TlsConnector> {
    let wrong = |what: &'static str, e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Config, "redis.tls", what).with_source(e)
    };
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unread = |e: rustls::pki_types::pem::Error| {
                wrong("the authority's file cannot be read as PEM", e.to_string().into())
                    .with("file", file.display().to_string())
            };
            for certificate in CertificateDer::pem_file_iter(file).map_err(unread)? {
                roots
                    .add(certificate.map_err(unread)?)
                    .map_err(|e| wrong("the authority's certificate is not valid", e.into()))?;
            }
            if roots.is_empty() {
                return Err(Error::new(ErrorKind::Config, "redis.tls", "the authority's file holds no certificate")
                    .with("file", file.display().to_string()));
            }
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("TLS cannot be set up", e.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// Why a handshake failed. A certificate that is not accepted is not accepted a second later either.
pub(crate) fn refused(node: &Node, e: std::io::Error) -> Error {
    let (kind, what) = match e.get_ref().and_then(|e| e.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => (ErrorKind::Config, "the certificate of redis is for another name: connect by one that is in it"),
        Some(rustls::Error::InvalidCertificate(_)) => (
            ErrorKind::Config,
            "the certificate of redis is not accepted: is its authority in ca_file, has it not expired",
        ),
        Some(rustls::Error::InvalidMessage(_)) => (ErrorKind::Config, "this port of redis does not speak TLS"),
        _ => (ErrorKind::Unavailable, "redis cannot be reached"),
    };
    Error::new(kind, "redis.connect", what).with_adapter("redis").with("node", node.to_string()).with_source(e)
}
