//! The initiator's end: handshake, challenge out, evidence in, judgement, and evidence of its own where it has any.

use crate::endpoint::Endpoint;
use crate::error::{ChannelError, ConnectError, Step};
use crate::judge::{Claim, Question, Wanted};
use crate::link::Link;
use crate::stream::ChannelStream;
use crate::trust::Verifier;
use crate::{Peer, frame, tls};
use protocol::channel::{
    Challenge, Control, Direction, GpuDemand, MAX_CHALLENGE, MAX_SHOWN, MAX_SHOWN_WITHOUT_GPU, solve,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection together with the proof of what is at its far end. Made by [`connect`] and [`crate::Acceptor`] alone.
#[derive(Debug)]
pub struct Attested<S = TcpStream> {
    pub(crate) peer: Peer,
    pub(crate) link: Link,
    pub(crate) stream: ChannelStream<S>,
}

impl<S> Attested<S> {
    /// What the far end was proved to be.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The connection as bindings see it, to ask or answer again on it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut ChannelStream<S> {
        &mut self.stream
    }

    /// All apart, for those who give the stream away.
    pub fn into_parts(self) -> (Peer, Link, ChannelStream<S>) {
        (self.peer, self.link, self.stream)
    }
}

/// Connects to an attested responder that is as `wanted`. Where `me` is attested, the responder demands its evidence in
/// turn; the stream may be written to at once, and its first read says whether that evidence was accepted. Nothing but a
/// challenge is sent to the peer before its evidence was accepted.
pub async fn connect<S>(
    io: S,
    me: &Endpoint,
    verifier: &Verifier,
    wanted: &Wanted,
) -> Result<Attested<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect_showing(io, me, verifier, wanted, |_| ()).await
}

/// As [`connect`]; `show` sees what the peer sent before it is judged, also that of a peer who is then refused.
pub async fn connect_showing<S>(
    io: S,
    me: &Endpoint,
    verifier: &Verifier,
    wanted: &Wanted,
    show: impl FnOnce(&Claim),
) -> Result<Attested<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(me.client.clone());
    let mut stream = frame::within(Step::Handshake, async {
        connector.connect(tls::server_name(), io).await.map_err(ChannelError::from_handshake)
    })
    .await?;
    let connection = stream.get_ref().1;
    let (exporter, key) = (tls::exporter(connection)?, tls::responder_key(connection)?);
    let link = Link::new(exporter, Direction::Initiator, me.part(), wanted.part, key);

    let (question, first) = challenge(&mut stream, &link, verifier, wanted, me.is_attested()).await?;
    if !me.is_attested() {
        let peer = verifier.judge_showing(question, &link, &first, show)?;
        return Ok(Attested { peer, link, stream: ChannelStream::new(stream.into()) });
    }
    refuse_reflection(&question, &first)?;
    // Our own quote is made while the peer's is.
    let judged = async {
        let evidence = read_evidence(&mut stream, wanted).await?;
        let peer = verifier.judge_showing(question, &link, &evidence, show);
        Ok::<_, ConnectError>(peer?)
    };
    let answered = async { Ok(me.answer(&link, &first).await?) };
    let (peer, evidence) = tokio::try_join!(judged, answered)?;
    frame::write(&mut stream, Step::Evidence, &evidence).await?;
    Ok(Attested { peer, link, stream: ChannelStream::awaiting_verdict(stream.into()) })
}

/// Asks, and does the work that the responder may demand. What comes back is the first frame that is neither: the
/// responder's own challenge to an attested initiator, its evidence to a client.
async fn challenge<S>(
    stream: &mut TlsStream<S>,
    link: &Link,
    verifier: &Verifier,
    wanted: &Wanted,
    mutual: bool,
) -> Result<(Question, Vec<u8>), ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = verifier.ask(link, wanted)?;
    frame::write(stream, Step::Challenge, &question.to_bytes()).await?;
    let first = read_first(stream, wanted, mutual).await?;
    let step = Step::Challenge;
    let Some(difficulty) = demanded(step, &first)? else { return Ok((question, first)) };
    let question = work(question, link, difficulty).await?;
    frame::write(stream, Step::Challenge, &question.to_bytes()).await?;
    let second = read_first(stream, wanted, mutual).await?;
    match demanded(step, &second)? {
        None => Ok((question, second)),
        Some(_) => {
            Err(ChannelError::Unexpected { step, expected: "an answer", found: "a second demand for work" })
        }
    }
}

async fn read_first<S>(
    stream: &mut TlsStream<S>,
    wanted: &Wanted,
    mutual: bool,
) -> Result<Vec<u8>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match mutual {
        true => frame::read(stream, Step::Challenge, MAX_CHALLENGE).await,
        false => frame::read(stream, Step::Evidence, bound(wanted)).await,
    }
}

fn bound(wanted: &Wanted) -> usize {
    if wanted.gpu == GpuDemand::None { MAX_SHOWN_WITHOUT_GPU } else { MAX_SHOWN }
}

async fn read_evidence<S>(stream: &mut TlsStream<S>, wanted: &Wanted) -> Result<Vec<u8>, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let step = Step::Evidence;
    let bytes = frame::read(stream, step, bound(wanted)).await?;
    match demanded(step, &bytes)? {
        None => Ok(bytes),
        Some(_) => Err(ChannelError::Unexpected { step, expected: "evidence", found: "a demand for work" }),
    }
}

/// The difficulty, if these bytes demand work; a refusal is an error, and so is a verdict where there is none to be given.
fn demanded(step: Step, bytes: &[u8]) -> Result<Option<u32>, ChannelError> {
    if !Control::is_named(bytes) {
        return Ok(None);
    }
    match Control::from_bytes(bytes).map_err(|source| ChannelError::Malformed { step, source })? {
        Control::Retry { difficulty } => Ok(Some(difficulty)),
        Control::Refuse(reason) => Err(ChannelError::Refused { step, reason }),
        Control::Accepted => {
            Err(ChannelError::Unexpected { step, expected: "an answer", found: "an early verdict" })
        }
    }
}

async fn work(question: Question, link: &Link, difficulty: u32) -> Result<Question, ChannelError> {
    let exporter = *link.exporter();
    let working = tokio::task::spawn_blocking(move || solve(&exporter, difficulty));
    let step = Step::Admission;
    let solution = frame::within(step, async { Ok(working.await.ok().flatten()) }).await?;
    solution.map(|solution| question.with_solution(solution)).ok_or(ChannelError::Deadline { step })
}

fn refuse_reflection(question: &Question, challenge: &[u8]) -> Result<(), ChannelError> {
    let step = Step::Challenge;
    let challenge =
        Challenge::from_bytes(challenge).map_err(|source| ChannelError::Malformed { step, source })?;
    match challenge.nonce == *question.nonce() {
        true => Err(ChannelError::Reflected),
        false => Ok(()),
    }
}
