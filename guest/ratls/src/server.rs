//! The attester's end: handshake, challenge in, quote over the binding, evidence out.
//!
//! Quotes are made on blocking threads, a few at a time, with a bounded queue before them: a platform makes some tens
//! of quotes a second at best, and a flood of connections must cost the flooder more than it costs us.

use crate::error::{AcceptError, ChannelError, Step};
use crate::stream::AttestedServerStream;
use crate::{frame, tls};
use protocol::Attester;
use protocol::channel::{Binding, Challenge};
use protocol::evidence::Evidence;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Quotes in the making at one time.
const QUOTES_AT_ONCE: usize = 2;
/// Connections that may wait for a quote or have it made.
const QUOTE_QUEUE: usize = 64;
/// A challenge is 40 bytes; a little room lets a longer one fail with its offset.
const MAX_CHALLENGE: usize = 64;

/// Accepts connections as an attester. One a process: the TLS key lives as long as it does.
pub struct Acceptor {
    attester: Arc<dyn Attester>,
    static_config: Vec<u8>,
    public_key: Vec<u8>,
    tls: TlsAcceptor,
    queue: Arc<Semaphore>,
    quotes: Arc<Semaphore>,
}

impl Acceptor {
    /// Makes the TLS key. `static_config` are the exact bytes that MRCONFIGID commits to; they travel with each quote.
    pub fn new(attester: Arc<dyn Attester>, static_config: Vec<u8>) -> Self {
        Self::with_identity(attester, static_config, tls::Identity::generate())
    }

    /// With a key from elsewhere in this crate.
    pub(crate) fn with_identity(
        attester: Arc<dyn Attester>,
        static_config: Vec<u8>,
        identity: tls::Identity,
    ) -> Self {
        let config = tls::server_config(&identity).expect("fixed TLS settings and our own key fit together");
        Acceptor {
            attester,
            static_config,
            public_key: identity.public_key,
            tls: TlsAcceptor::from(Arc::new(config)),
            queue: Arc::new(Semaphore::new(QUOTE_QUEUE)),
            quotes: Arc::new(Semaphore::new(QUOTES_AT_ONCE)),
        }
    }

    /// Takes one connection through handshake and attestation. The stream that comes back is ready for requests.
    pub async fn accept<S>(&self, io: S) -> Result<AttestedServerStream<S>, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = frame::within(Step::Handshake, async {
            self.tls.accept(io).await.map_err(ChannelError::from_handshake)
        })
        .await?;
        let state = stream.get_ref().1;
        tls::require_alpn(state)?;
        let exporter =
            tls::exporter(|out, label, context| state.export_keying_material(out, label, context))?;

        let step = Step::Challenge;
        let bytes = frame::read(&mut stream, step, MAX_CHALLENGE).await?;
        let challenge =
            Challenge::from_bytes(&bytes).map_err(|source| ChannelError::Malformed { step, source })?;
        let binding = Binding { exporter: &exporter, nonce: &challenge.nonce, public_key: &self.public_key };

        let evidence = self.evidence(binding.report_data()).await?;
        frame::write(&mut stream, Step::Evidence, &evidence.to_bytes()).await?;
        Ok(AttestedServerStream(stream))
    }

    /// Connections that wait for a quote or have it made, now.
    pub fn queued(&self) -> usize {
        QUOTE_QUEUE - self.queue.available_permits()
    }

    /// Evidence over `report_data`, within the deadline, the queue's length and the number of quotes at once.
    async fn evidence(&self, report_data: [u8; 64]) -> Result<Evidence, AcceptError> {
        let Ok(_place) = self.queue.try_acquire() else {
            return Err(AcceptError::Busy { waiting: QUOTE_QUEUE });
        };
        let work = async {
            // Only `close` makes acquiring fail, and nobody closes it.
            let permit = self.quotes.clone().acquire_owned().await.expect("the semaphore is never closed");
            let attester = self.attester.clone();
            let made = tokio::task::spawn_blocking(move || {
                // Held until the quote is there, even if the connection is long gone.
                let _permit = permit;
                let quote = attester.quote(&report_data)?;
                Ok::<_, AcceptError>((quote, attester.event_log()?, attester.runtime()?))
            });
            made.await.map_err(AcceptError::Task)?
        };
        let timed = tokio::time::timeout(Step::Quote.deadline(), work).await;
        let (quote, event_log, runtime) =
            timed.map_err(|_| ChannelError::Deadline { step: Step::Quote })??;
        Ok(Evidence { quote, event_log, static_config: self.static_config.clone(), runtime })
    }
}
