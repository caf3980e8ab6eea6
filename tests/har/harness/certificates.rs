//! A certificate authority of the test's own, and server configurations signed by it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An authority that nobody else trusts.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "har test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes its certificate, for `ca_file`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("own folder");
    }

    /// A server with a certificate for `name`.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        self.sign(CertificateParams::new([name.to_owned()]).expect("a name"))
    }

    /// A server with a certificate for `name` that ended long ago.
    pub fn expired_server(&self, name: &str) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(params)
    }

    /// A certificate for `name` and its key, as text in PEM.
    pub fn pem(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("a signature").pem(), key.serialize_pem())
    }

    /// A server with a certificate for `name` that ends after this long.
    pub fn server_for(&self, name: &str, left: Duration) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_after = (SystemTime::now() + left).into();
        self.sign(params)
    }

    /// Writes a certificate for `name` and its key, in PEM, as `BASE.pem` and `BASE.key`.
    pub fn write_pair(&self, name: &str, folder: &Path, base: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature").pem();
        std::fs::write(folder.join(base).with_extension("pem"), certificate).expect("own folder");
        std::fs::write(folder.join(base).with_extension("key"), key.serialize_pem()).expect("own folder");
    }

    fn sign(&self, params: CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer).expect("a signature").into();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a matching key");
        Arc::new(config)
    }
}
