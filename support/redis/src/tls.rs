//! TLS by rustls on ring, and what it means when it fails.

use std::path::Path;
use std::sync::Arc;

use forge_core::{Error, ErrorKind, Result};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use crate::{Node, RedisConfig};

const OP: &str = "redis.tls";

/// What TLS is spoken with.
pub(crate) fn connector(config: &RedisConfig) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| wrong("the authority's certificate is not valid", file, e))?;
            }
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Config, OP, "TLS cannot be set up").with_source(e))?
        .with_root_certificates(roots);
    let tls = match &config.client_certificate {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => {
            let read = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("the key cannot be read as PEM", key, e))?;
            tls.with_client_auth_cert(certificates(certificate)?, read)
                .map_err(|e| wrong("the certificate and the key do not fit", certificate, e))?
        }
    };
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// All that are in the file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found = found.map_err(|e| wrong("the certificates cannot be read as PEM", file, e))?;
    if found.is_empty() {
        return Err(wrong("the file holds no certificate", file, rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn wrong(what: &'static str, file: &Path, e: impl std::error::Error) -> Error {
    // as text, since the errors of PEM can hold what was read and are not to be walked into
    Error::new(ErrorKind::Config, OP, what).with("file", file.display().to_string()).with_source(e.to_string())
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
