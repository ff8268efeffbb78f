//! TLS settings of both ends: version 1.3 only, hybrid key exchange only, no resumption, no early data, ALPN required; the
//! responder alone shows a certificate.
//!
//! [`HolderOfKey`] is a dangerous verifier: it accepts any certificate whose key the peer holds. It is private to this
//! crate and reached only through [`crate::connect`] and [`crate::Acceptor`], which hand out no stream before the exchange.

use crate::error::ChannelError;
use crate::weak;
use protocol::channel::EXPORTER_LABEL;
use protocol::names::ALPN;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    ClientConfig, ConnectionCommon, DigitallySignedStruct, NamedGroup, ServerConfig, SignatureScheme,
};
use std::sync::{Arc, LazyLock};

/// The name in the certificate, never looked at: RFC 6761 keeps `invalid` out of the DNS.
const NOBODY: &str = "chrysalis.invalid";

/// aws-lc-rs with X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) and nothing else: both ends are ours, so a connection that
/// is recorded today can't be opened by a quantum computer later, and there is no group to downgrade to.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    PROVIDER.clone()
}

/// 32 random bytes.
pub(crate) fn random() -> Result<[u8; 32], ChannelError> {
    let mut bytes = [0; 32];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| ChannelError::Tls(rustls::Error::FailedToGetRandomBytes))?;
    Ok(bytes)
}

/// An attester's TLS identity: a P-256 key that never leaves this process's memory.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) private_key: PrivateKeyDer<'static>,
    /// DER of the SubjectPublicKeyInfo in the certificate, as a verifier will extract it.
    pub(crate) public_key: Vec<u8>,
}

impl Identity {
    /// Makes a fresh key and a self-signed certificate around it. The dates in the certificate are rcgen's fixed ones:
    /// a guest has no clock to trust, and no verifier reads them; the key's life is that of the process.
    pub(crate) fn generate() -> Self {
        let made = rcgen::generate_simple_self_signed([NOBODY.to_string()]);
        // Fails only without entropy or with a name that is no DNS name; neither can be mended at run time.
        let made = made.expect("a P-256 key and its certificate can be made");
        let certificate = made.cert.der().clone();
        let public_key = public_key_of(&certificate).expect("our own certificate can be parsed");
        Identity { certificate, private_key: made.signing_key.into(), public_key: public_key.to_vec() }
    }

    /// A second holder of the key: one who stole it, or a test's puppeteer.
    #[cfg(test)]
    pub(crate) fn clone_for_tests(&self) -> Self {
        let (certificate, public_key) = (self.certificate.clone(), self.public_key.clone());
        Identity { certificate, private_key: self.private_key.clone_key(), public_key }
    }
}

/// Settings of a responder. It asks for no certificate: an attested initiator is known by its evidence, which is bound to the
/// exporter that only the two ends of this connection have.
pub(crate) fn server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    let chain = vec![identity.certificate.clone()];
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, identity.private_key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Settings of an initiator, attested or not: it shows no certificate.
pub(crate) fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let verifier = HolderOfKey { algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The name that rustls wants of a client; it is neither sent nor compared.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NOBODY).expect("a constant DNS name")
}

/// DER of the certificate's SubjectPublicKeyInfo, exactly as it stands there.
pub(crate) fn public_key_of(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, rustls::Error> {
    Ok(ParsedCertificate::try_from(certificate)?.subject_public_key_info())
}

/// The exporter of a finished handshake (RFC 8446 section 7.5), once what was negotiated is right; rustls lets a peer without
/// ALPN through.
pub(crate) fn exporter<D>(connection: &ConnectionCommon<D>) -> Result<[u8; 32], ChannelError> {
    if connection.alpn_protocol() != Some(ALPN) {
        let found = connection.alpn_protocol();
        let found = found.map_or_else(|| "none".into(), |other| format!("`{}`", other.escape_ascii()));
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        return Err(match certificate.is_some_and(weak::is_shown_in) {
            true => ChannelError::Weaker { found },
            false => ChannelError::Alpn { found },
        });
    }
    match connection.negotiated_key_exchange_group().map(|group| group.name()) {
        Some(NamedGroup::X25519MLKEM768) => {}
        other => return Err(ChannelError::Group { found: format!("{other:?}") }),
    }
    let exporter = connection.export_keying_material([0; 32], EXPORTER_LABEL, None);
    exporter.map_err(ChannelError::Tls)
}

/// DER of the SubjectPublicKeyInfo that the responder showed, at an initiator.
pub(crate) fn responder_key<D>(connection: &ConnectionCommon<D>) -> Result<Arc<[u8]>, ChannelError> {
    let certificate = connection.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or(ChannelError::Tls(rustls::Error::NoCertificatesPresented))?;
    let key = public_key_of(certificate).map_err(ChannelError::Tls)?;
    Ok(Arc::from(key.as_ref()))
}

/// Accepts whoever holds the key of the certificate it shows (TLS 1.3 CertificateVerify, RFC 8446 section 4.4.3), and
/// nothing more: names, dates and issuers mean nothing here.
#[derive(Debug)]
struct HolderOfKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl HolderOfKey {
    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is never negotiated; nothing that it would want verified holds.
fn tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
}

fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256]
}

impl ServerCertVerifier for HolderOfKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        public_key_of(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
