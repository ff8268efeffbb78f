//! The responder's end: handshake, challenge in, admission, evidence out, and evidence in from initiators that have any.

use crate::connect::Attested;
use crate::endpoint::Endpoint;
use crate::error::{AcceptError, ChannelError, Step};
use crate::judge::Wanted;
use crate::link::Link;
use crate::stream::ChannelStream;
use crate::trust::Verifier;
use crate::{Peer, frame, tls};
use protocol::channel::{
    Challenge, Control, Direction, GpuDemand, MAX_CHALLENGE, MAX_SHOWN, MAX_SHOWN_WITHOUT_GPU, Part, Refuse,
    difficulty, pair_allowed, solves,
};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Accepts connections at an attested end: from clients, from parts that must be attested themselves, or from both.
pub struct Acceptor {
    endpoint: Arc<Endpoint>,
    tls: TlsAcceptor,
    anonymous: bool,
    attested: Vec<(Arc<Verifier>, Wanted)>,
}

/// A connection on which this end has proved itself to a client, of whom nothing is known.
#[derive(Debug)]
pub struct Served<S = TcpStream> {
    link: Link,
    stream: ChannelStream<S>,
}

impl<S> Served<S> {
    /// The connection as bindings see it, to answer again on it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut ChannelStream<S> {
        &mut self.stream
    }

    /// Both apart.
    pub fn into_parts(self) -> (Link, ChannelStream<S>) {
        (self.link, self.stream)
    }
}

/// An accepted connection.
#[derive(Debug)]
pub enum Accepted<S = TcpStream> {
    /// From a client.
    Anonymous(Served<S>),
    /// From an attested part.
    Attested(Attested<S>),
}

impl<S> Accepted<S> {
    /// What the far end was proved to be, if it proved anything.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Accepted::Anonymous(_) => None,
            Accepted::Attested(attested) => Some(attested.peer()),
        }
    }

    /// Proof, connection and stream apart.
    pub fn into_parts(self) -> (Option<Peer>, Link, ChannelStream<S>) {
        match self {
            Accepted::Anonymous(Served { link, stream }) => (None, link, stream),
            Accepted::Attested(Attested { peer, link, stream }) => (Some(peer), link, stream),
        }
    }
}

impl Acceptor {
    /// Lets nobody in yet. `None` if the endpoint is a client's, which can't be connected to.
    pub fn new(endpoint: Arc<Endpoint>) -> Option<Self> {
        let tls = TlsAcceptor::from(endpoint.server()?);
        Some(Acceptor { endpoint, tls, anonymous: false, attested: Vec::new() })
    }

    /// Lets clients in.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Lets initiators in that say they are of the wanted part, and prove it to this verifier. One rule a part: the first counts.
    #[must_use]
    pub fn attested(mut self, verifier: Arc<Verifier>, wanted: Wanted) -> Self {
        self.attested.push((verifier, wanted));
        self
    }

    /// This end.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Takes one connection through handshake and attestation. A peer that is turned away is told a reason of a closed list,
    /// nothing else.
    pub async fn accept<S>(&self, io: S) -> Result<Accepted<S>, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = frame::within(Step::Handshake, async {
            self.tls.accept(io).await.map_err(ChannelError::from_handshake)
        })
        .await?;
        match self.exchange(&mut stream).await {
            Ok((link, peer)) => {
                let stream = ChannelStream::new(stream.into());
                Ok(match peer {
                    None => Accepted::Anonymous(Served { link, stream }),
                    Some(peer) => Accepted::Attested(Attested { peer, link, stream }),
                })
            }
            Err(error) => {
                if let Some(reason) = error.refuse() {
                    turn_away(&mut stream, reason).await;
                }
                Err(error)
            }
        }
    }

    async fn exchange<S>(&self, stream: &mut TlsStream<S>) -> Result<(Link, Option<Peer>), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let exporter = tls::exporter(stream.get_ref().1)?;
        let challenge = read_challenge(stream, Step::Challenge).await?;
        if challenge.solution.is_some() {
            let (expected, found) = ("a challenge without a solution", "one with a solution to nothing");
            return Err(ChannelError::Unexpected { step: Step::Challenge, expected, found }.into());
        }
        let (mine, key) = (self.endpoint.part(), self.endpoint.key());
        let link = Link::new(exporter, Direction::Responder, mine, challenge.from, key);
        let host = self.host_of(challenge.from)?;
        let challenge = self.admit(stream, &link, challenge).await?.to_bytes();
        let Some((verifier, wanted)) = host else {
            let evidence = self.endpoint.answer(&link, &challenge).await?;
            frame::write(stream, Step::Evidence, &evidence).await?;
            return Ok((link, None));
        };
        // At once, so that the initiator's quote is made while ours is.
        let question = verifier.ask(&link, wanted)?;
        frame::write(stream, Step::Challenge, &question.to_bytes()).await?;
        let evidence = self.endpoint.answer(&link, &challenge).await?;
        frame::write(stream, Step::Evidence, &evidence).await?;
        let bound = if wanted.gpu == GpuDemand::None { MAX_SHOWN_WITHOUT_GPU } else { MAX_SHOWN };
        let evidence = frame::read(stream, Step::Evidence, bound).await?;
        let peer = verifier.judge(question, &link, &evidence)?;
        frame::write(stream, Step::Verdict, &Control::Accepted.to_bytes()).await?;
        Ok((link, Some(peer)))
    }

    /// Who judges an initiator of this part: nobody, for clients.
    fn host_of(&self, part: Part) -> Result<Option<&(Arc<Verifier>, Wanted)>, AcceptError> {
        let uninvited = AcceptError::Uninvited { part };
        if !pair_allowed(part, self.endpoint.part()) {
            return Err(uninvited);
        }
        match part {
            Part::Client if self.anonymous => Ok(None),
            Part::Client => Err(uninvited),
            _ => self.attested.iter().find(|(_, wanted)| wanted.part == part).map(Some).ok_or(uninvited),
        }
    }

    /// Demands work while quotes are in short supply.
    async fn admit<S>(
        &self,
        stream: &mut TlsStream<S>,
        link: &Link,
        challenge: Challenge,
    ) -> Result<Challenge, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let quotes = self.endpoint.quotes();
        let difficulty = quotes.map_or(0, |queue| difficulty(queue.depth(), queue.limits().waiting));
        if difficulty == 0 {
            return Ok(challenge);
        }
        frame::write(stream, Step::Admission, &Control::Retry { difficulty }.to_bytes()).await?;
        let second = read_challenge(stream, Step::Admission).await?;
        if (Challenge { solution: None, ..second.clone() }) != challenge {
            let (expected, found) = ("the same challenge with a solution", "another challenge");
            return Err(ChannelError::Unexpected { step: Step::Admission, expected, found }.into());
        }
        match second.solution {
            Some(solution) if solves(link.exporter(), solution, difficulty) => Ok(second),
            _ => Err(AcceptError::Admission { difficulty }),
        }
    }
}

async fn read_challenge<S>(stream: &mut TlsStream<S>, step: Step) -> Result<Challenge, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bytes = frame::read(stream, step, MAX_CHALLENGE).await?;
    Challenge::from_bytes(&bytes).map_err(|source| ChannelError::Malformed { step, source })
}

/// Says why, and hangs up. Whether it arrives is the peer's affair.
async fn turn_away<S>(stream: &mut TlsStream<S>, reason: Refuse)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if frame::write(stream, Step::Verdict, &Control::Refuse(reason).to_bytes()).await.is_ok() {
        let _ = tokio::time::timeout(Step::Verdict.deadline(), stream.shutdown()).await;
    }
}
