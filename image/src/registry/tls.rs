//! TLS as a hosts.toml configures it: authorities beside the system's, a trusted certificate that is the registry's own, client
//! certificates, or no verification.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;
use crate::hosts::{Endpoint, read_file};

/// Reads the files of a host's settings. Blocking.
pub(super) fn config(endpoint: &Endpoint) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = || Error::failed(format!("cannot prepare TLS with registry {}", endpoint.authority()));
    let mut trusted = Vec::new();
    for path in &endpoint.ca {
        trusted.extend(certificates(path)?);
    }
    let inner = if endpoint.skip_verify { None } else { Some(verifier(&trusted, endpoint, &provider)?) };
    let verifier = Verifier { inner, trusted, provider: Arc::clone(&provider) };
    let pairs = endpoint.client.iter().map(|(file, key)| pair(file, key.as_deref(), &provider));
    let pairs = Pairs(pairs.collect::<Result<_, _>>()?);
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(failed())?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_client_cert_resolver(Arc::new(pairs)))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_file(path).map_err(Error::io(format!("cannot read {}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let invalid = |reason: String| Error::invalid(path.display().to_string(), reason);
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|error| invalid(format!("not PEM: {error}")))?;
    if all.is_empty() { Err(invalid("it holds no certificate in PEM form".to_owned())) } else { Ok(all) }
}

fn verifier(
    trusted: &[CertificateDer<'static>],
    endpoint: &Endpoint,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    // A system without authorities, or with one that cannot be read, still knows those of the settings.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in trusted {
        let failed = format!("cannot use a certificate of `ca` for registry {}", endpoint.authority());
        roots.add(certificate.clone()).map_err(Error::failed(failed))?;
    }
    let failed =
        format!("cannot verify registry {}: neither the system nor `ca` has an authority", endpoint.authority());
    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(Error::failed(failed))
}

/// Reads a client certificate and its key; without a key file, both are in one file.
fn pair(file: &Path, key: Option<&Path>, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let key_file = key.unwrap_or(file);
    let private = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| {
        let reason = format!("it holds no private key in PEM form without a password: {error}");
        Error::invalid(key_file.display().to_string(), reason)
    })?;
    let made = CertifiedKey::from_der(certificates(file)?, private, provider);
    made.map(Arc::new).map_err(|error| {
        let reason = format!("it cannot be used with the key in {}: {error}", key_file.display());
        Error::invalid(file.display().to_string(), reason)
    })
}

/// Verifies a server by the authorities; None: not at all. Also accepts a trusted certificate that is the server's own and says
/// of itself that it is an authority, as `openssl req -x509` makes it and Docker's documentation has it: webpki refuses that.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(own, others, name, ocsp, now) {
            // CaUsedAsEndEntity: webpki has checked the dates before, and not yet the name.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if self.trusted.contains(own) => {
                verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client certificates: the server names the authorities that it accepts, and gets the first one of them.
#[derive(Debug)]
struct Pairs(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Pairs {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut usable = self.0.iter().filter(|pair| pair.key.choose_scheme(schemes).is_some());
        // The name of an issuer stands in the certificate byte for byte as the server sends it.
        let named = |pair: &&Arc<CertifiedKey>| {
            let holds = |name: &&[u8]| pair.cert.iter().any(|cert| cert.windows(name.len()).any(|part| part == *name));
            authorities.iter().filter(|name| !name.is_empty()).any(holds)
        };
        usable.clone().find(named).or_else(|| usable.next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
