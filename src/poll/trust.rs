//! TLS set-up shared by the checks that speak it: whom to trust and who to be.
//!
//! The system's authorities are read once, when the first check needs them, and shared; a new [`SystemRoots`]
//! reads them again. Files that cannot be read or hold nothing useful are errors as values: the caller decides
//! what becomes of the check. Sessions are never resumed, so that every check sees and verifies the certificate.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{Trust, open_file};

/// Longest certificate or key file: a bundle of every public authority is a quarter of a megabyte.
const MAX_FILE: u64 = 8 << 20;

/// The system's trust store, read when it is first needed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SystemRoots {
    loaded: Arc<Mutex<Option<Arc<RootCertStore>>>>,
}

impl SystemRoots {
    /// Nothing read yet.
    pub fn new() -> SystemRoots {
        SystemRoots::default()
    }

    fn get(&self) -> Result<Arc<RootCertStore>, String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &*loaded {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!(
                "the system's trust store holds no certificate{why}: install ca-certificates or set ca_file"
            ));
        }
        let roots = Arc::new(roots);
        *loaded = Some(Arc::clone(&roots));
        Ok(roots)
    }
}

/// The client side of TLS as `trust` wants it.
///
/// # Errors
/// What is wrong with a file, with its path, in a sentence.
pub fn client_config(trust: &Trust, system: &SystemRoots) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set TLS up: {error}"))?;
    let builder = if trust.verify {
        let roots = match &trust.ca_file {
            Some(path) => Arc::new(authorities(path)?),
            None => system.get()?,
        };
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny { provider }))
    };
    let mut config = match &trust.client {
        Some((chain_path, key_path)) => {
            let chain = certificates(chain_path)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key_path)?)
                .map_err(|_| format!("{}: no usable private key in PEM format", key_path.display()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                format!("{} and {} do not make a client certificate: {error}", chain_path.display(), key_path.display())
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{}: a certificate cannot be used as an authority: {error}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{}: no certificate in PEM format", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("cannot read {}: {why}", path.display());
    let file = open_file(path).map_err(|unread| failed(unread.to_string()))?;
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content).map_err(|error| failed(error.to_string()))?;
    Ok(content)
}

/// `verify = false`: whoever answers is the right one.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // The signature is not checked either: certificates too old or odd to parse are what people turn verification off for.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
