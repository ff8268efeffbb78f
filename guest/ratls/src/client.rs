//! The verifier's end: handshake, challenge out, evidence in, appraisal; a stream only after all of it.

use crate::error::{ChannelError, ConnectError, Step};
use crate::stream::AttestedClientStream;
use crate::{frame, tls};
use evidence::{Appraised, Refused};
use protocol::channel::{Binding, Challenge, MAX_FRAME};
use protocol::evidence::Evidence;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection together with the proof of what is at its far end. Made by [`connect`] alone.
#[derive(Debug)]
pub struct Attested<S = TcpStream> {
    appraised: Appraised,
    stream: AttestedClientStream<S>,
}

impl<S> Attested<S> {
    /// What the far end was proved to be.
    pub fn appraised(&self) -> &Appraised {
        &self.appraised
    }

    /// The stream, for requests.
    pub fn stream(&mut self) -> &mut AttestedClientStream<S> {
        &mut self.stream
    }

    /// Proof and stream apart, for those who give the stream away.
    pub fn into_parts(self) -> (Appraised, AttestedClientStream<S>) {
        (self.appraised, self.stream)
    }
}

/// Connects as a verifier. `appraise` gets the peer's evidence and the 64 bytes of report data that its quote must
/// carry on this connection; it is [`evidence::appraise`] with the caller's policy. It runs on the calling task and
/// takes a few milliseconds. Nothing but a random nonce is sent to the peer before it returns.
pub async fn connect<S, F>(io: S, appraise: F) -> Result<Attested<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(&Evidence, &[u8; 64]) -> Result<Appraised, Refused>,
{
    let claim = challenge(io).await?;
    let appraised = appraise(&claim.evidence, &claim.report_data).map_err(ConnectError::Refused)?;
    Ok(Attested { appraised, stream: AttestedClientStream(claim.stream) })
}

/// What a peer sent, not yet appraised.
pub(crate) struct Claim<S> {
    pub(crate) evidence: Evidence,
    /// What the quote must carry to speak of this connection.
    pub(crate) report_data: [u8; 64],
    pub(crate) stream: TlsStream<S>,
}

/// Everything up to appraisal.
pub(crate) async fn challenge<S>(io: S) -> Result<Claim<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = Arc::new(tls::client_config().map_err(ChannelError::Tls)?);
    let mut nonce = [0; 32];
    let random = config.crypto_provider().secure_random;
    random.fill(&mut nonce).map_err(|_| ChannelError::Tls(rustls::Error::FailedToGetRandomBytes))?;

    let connector = TlsConnector::from(config);
    let mut stream = frame::within(Step::Handshake, async {
        connector.connect(tls::server_name(), io).await.map_err(ChannelError::from_handshake)
    })
    .await?;
    let state = stream.get_ref().1;
    tls::require_alpn(state)?;
    let exporter = tls::exporter(|out, label, context| state.export_keying_material(out, label, context))?;
    let certificate = state.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or(ChannelError::Tls(rustls::Error::NoCertificatesPresented))?;
    let public_key = tls::public_key_of(certificate).map_err(ChannelError::Tls)?;
    let binding = Binding { exporter: &exporter, nonce: &nonce, public_key: &public_key };
    let report_data = binding.report_data();

    frame::write(&mut stream, Step::Challenge, &Challenge { nonce }.to_bytes()).await?;
    let step = Step::Evidence;
    let bytes = frame::read(&mut stream, step, MAX_FRAME).await?;
    let evidence = Evidence::from_bytes(&bytes).map_err(|source| ChannelError::Malformed { step, source })?;
    Ok(Claim { evidence, report_data, stream })
}
