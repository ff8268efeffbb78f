//! TLS settings of both ends: version 1.3 only, hybrid key exchange first, no resumption, no early data, ALPN required.
//!
//! [`HolderOfKey`] is a dangerous verifier: it accepts any certificate whose key the peer holds. It is private to this
//! crate and reached only through [`crate::connect`], which hands out no stream before the evidence was appraised.

use crate::error::ChannelError;
use protocol::channel::EXPORTER_LABEL;
use protocol::names::ALPN;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{ClientConfig, CommonState, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// The name in the certificate, never looked at: RFC 6761 keeps `invalid` out of the DNS.
const NOBODY: &str = "chrysalis.invalid";

/// aws-lc-rs with X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) preferred and X25519 for peers without it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![X25519MLKEM768, X25519];
    Arc::new(provider)
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
}

/// Settings of the attester's end.
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

/// Settings of the verifier's end.
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

/// Refuses a connection on which `chrysalis/1` was not negotiated; rustls lets a peer without ALPN through.
pub(crate) fn require_alpn(state: &CommonState) -> Result<(), ChannelError> {
    match state.alpn_protocol() {
        Some(ALPN) => Ok(()),
        Some(other) => Err(ChannelError::Alpn { found: format!("`{}`", other.escape_ascii()) }),
        None => Err(ChannelError::Alpn { found: "none".into() }),
    }
}

/// The exporter of a finished handshake (RFC 8446 section 7.5), by either end's connection.
pub(crate) fn exporter(
    export: impl FnOnce([u8; 32], &[u8], Option<&[u8]>) -> Result<[u8; 32], rustls::Error>,
) -> Result<[u8; 32], ChannelError> {
    export([0; 32], EXPORTER_LABEL, None).map_err(ChannelError::Tls)
}

/// Accepts whoever holds the key of the certificate it shows (TLS 1.3 CertificateVerify, RFC 8446 section 4.4.3), and
/// nothing more: names, dates and issuers mean nothing here.
#[derive(Debug)]
struct HolderOfKey {
    algorithms: WebPkiSupportedAlgorithms,
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
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
